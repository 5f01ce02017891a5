package environment

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/supply"
)

// Rendered is what a component is made of in the cluster.
type Rendered struct {
	Objects []*unstructured.Unstructured
	inputs  string // what that was made of
}

// Render is what is applied of a component. Images that are on this machine or in the mirror
// are named by digest, others as far as they are known.
func (p *Platform) Render(ctx context.Context, c catalog.Component) (Rendered, error) {
	in := p.renderInput(ctx, c)
	if chart, ok := p.Overlay.Charts[c.Name]; ok {
		var err error
		if in.Chart, err = p.Supply.Chart(ctx, chart); err != nil {
			return Rendered{}, fmt.Errorf("component %s: chart %s: %w", c.Name, chart.Folder, err)
		}
	}
	var err error
	if in.Files, err = p.Supply.Files(ctx, c, supply.ProbeTime); err != nil {
		return Rendered{}, err
	}
	objs, err := kube.Render(in)
	return Rendered{objs, in.Inputs(p.tree())}, err
}

func (p *Platform) renderInput(ctx context.Context, c catalog.Component) kube.RenderInput {
	return kube.RenderInput{Component: c, Overlay: p.Overlay, Facts: p.facts(ctx), Images: p.references()}
}

func (p *Platform) facts(ctx context.Context) kube.Facts {
	zones := map[string]bool{}
	topology := p.topology(ctx)
	servers := 0
	for _, n := range topology {
		zones[n.Zone] = true
		if n.Role == spec.RoleServer {
			servers++
		}
	}
	return kube.Facts{
		Environment: p.Spec.Name, ClusterDomain: "cluster.local", ClusterDNS: p.Spec.ClusterDNS().String(),
		PodCIDR: p.Spec.Network.Pods, ServiceCIDR: p.Spec.Network.Services, Durability: string(p.Spec.Durability),
		Servers: servers, Nodes: len(topology), Zones: len(zones),
		Egress:        p.Spec.Network.Egress,
		AllowedImages: p.allowedImages(), ImageAction: p.imageAction(),
	}
}

// allowedImages are the references by digest that pods of guarded namespaces may run: all
// of the lock for this platform, whatever is selected, those that the catalogue pulls, and
// what orrery.yaml allows besides.
func (p *Platform) allowedImages() []string {
	var refs []string
	if p.Supply.Locked != nil {
		for name, img := range p.Supply.Locked.Images {
			refs = append(refs, p.reference(image.Built{Name: name, Version: img.Version, Digest: img.Digest}))
		}
	}
	for _, c := range p.Catalog.Components {
		for _, img := range c.Images {
			if img.RegistryDigest() != "" {
				refs = append(refs, p.reference(image.Built{Name: img.Name, Version: img.Version, Digest: img.RegistryDigest()}))
			}
		}
	}
	refs = append(refs, p.Spec.Images.Allow...)
	slices.Sort(refs)
	return slices.Compact(refs)
}

// imageAction is what becomes of a pod with another image. Without a lock nothing is known
// that could be enforced.
func (p *Platform) imageAction() string {
	if p.Supply.Locked == nil || p.Spec.Images.Verify == spec.VerifyWarn {
		return "Warn"
	}
	return "Deny"
}

// references maps image names to what the mirror holds by digest; images that are not
// built yet keep their version tag.
func (p *Platform) references() map[string]string {
	refs := map[string]string{}
	for name, img := range p.Parts.Images {
		refs[name] = p.reference(image.Built{Name: name, Version: img.Version, Digest: img.RegistryDigest()})
		if b, ok := p.known(name); ok {
			refs[name] = p.reference(b)
		}
	}
	return refs
}

// reference is how manifests name an image: of the mirror, or of the registry that orrery.yaml
// names where an environment has no mirror of its own.
func (p *Platform) reference(b image.Built) string {
	host := mirror.Host
	if !p.Kind.Mirror {
		host = p.Spec.Images.Registry
	}
	ref := host + "/" + b.Name + ":" + b.Version
	if b.Digest != "" {
		ref += "@" + b.Digest
	}
	return ref
}
