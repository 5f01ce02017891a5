package k3d

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/reference"
	"github.com/orrery-dev/orrery/internal/spec"
)

// ownFixes turns off what k3d does to nodes before they start: those of ours do it by themselves.
var ownFixes = []string{"K3D_FIX_DNS=0", "K3D_FIX_MOUNTS=0", "K3D_FIX_CGROUPV2=0"}

// images gives the engine those that k3d makes containers of: the one of nodes, and in k3d's environment
// those of its load balancer and tools.
func (d *Driver) images(ctx context.Context) (node string, env []string, err error) {
	named := d.Spec.K3dImages()
	node, err = d.give(ctx, named.Image, func() (*image, error) { return nodeImage(d.Dist(), runtime.GOARCH) })
	if err != nil {
		return "", nil, err
	}
	balancer, err := d.balancerImage(ctx)
	if err != nil {
		return "", nil, err
	}
	tools, err := d.give(ctx, named.Tools, d.helper("tools"))
	if err != nil {
		return "", nil, err
	}
	env = []string{"K3D_IMAGE_LOADBALANCER=" + balancer, "K3D_IMAGE_TOOLS=" + tools}
	if named.Image == "" {
		env = append(env, ownFixes...)
	}
	return node, env, nil
}

func (d *Driver) balancerImage(ctx context.Context) (string, error) {
	return d.give(ctx, d.Spec.K3dImages().LoadBalancer, d.helper("proxy"))
}

// give gives the engine the image that is pinned, else the one that is made here.
func (d *Driver) give(ctx context.Context, pinned string, made func() (*image, error)) (tag string, err error) {
	if pinned != "" {
		return d.engine.pull(ctx, pinned)
	}
	i, err := made()
	if err != nil {
		return "", err
	}
	return d.engine.load(ctx, i)
}

func (d *Driver) helper(what string) func() (*image, error) {
	return func() (*image, error) { return helperImage(what, runtime.GOARCH, d.Dist().Program("k3s")) }
}

// checkImages asks for those that orrery.yaml names, and pulls none.
func (d *Driver) checkImages(ctx context.Context) check.Result {
	return d.engine.judgeImages(ctx, d.Spec.K3dImages())
}

func (e *engine) judgeImages(ctx context.Context, named spec.K3d) check.Result {
	var found []string
	for _, i := range []struct{ field, ref string }{{"image", named.Image}, {"loadBalancer", named.LoadBalancer}, {"tools", named.Tools}} {
		if i.ref == "" {
			continue
		}
		ref, err := pinned(i.ref)
		if err != nil {
			return check.Fail(fmt.Errorf("k3d.%s: %w", i.field, err))
		}
		where := "is in the engine"
		have, err := e.hasImage(ctx, ref)
		if err == nil && !have {
			where = "can be pulled"
			err = e.offered(ctx, ref)
		}
		if err != nil {
			return check.Fail(fmt.Errorf("k3d.%s: %s is not in the engine and cannot be pulled: %w; leave the field out for an image that is made here",
				i.field, ref, err))
		}
		found = append(found, i.ref+" "+where)
	}
	if found == nil {
		return check.OK("nodes, load balancer and tools are made here")
	}
	return check.OK("%s", strings.Join(found, ", "))
}

// pinned is a reference by digest alone, as engines find it again.
func pinned(ref string) (string, error) {
	r, err := reference.ParsePinned(ref)
	if err != nil {
		return "", err
	}
	return r.Name() + "@" + r.Digest, nil
}
