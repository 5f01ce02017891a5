package app

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/spec"
)

// rendered is what a component is made of in the cluster, and what that was made of.
type rendered struct {
	inputs string
	objs   []*unstructured.Unstructured
}

func (p *platform) render(ctx context.Context, c catalog.Component) (rendered, error) {
	in := p.renderInput(c)
	if chart, ok := p.overlay.Charts[c.Name]; ok {
		if p.builder == nil {
			return rendered{}, fmt.Errorf("component %s: its chart is in a module, which a bundle does not carry; render it where the repository is", c.Name)
		}
		var err error
		if in.Chart, err = p.builder.Chart(ctx, chart); err != nil {
			return rendered{}, fmt.Errorf("component %s: chart %s: %w", c.Name, chart.Folder, err)
		}
	}
	objs, err := kube.Render(in)
	return rendered{in.Inputs(p.tree()), objs}, err
}

func (p *platform) renderInput(c catalog.Component) kube.RenderInput {
	return kube.RenderInput{Component: c, Overlay: p.overlay, Facts: p.facts(), Images: p.references()}
}

func (p *platform) facts() kube.Facts {
	zones := map[string]bool{}
	topology := p.spec.Topology()
	for _, n := range topology {
		zones[n.Zone] = true
	}
	return kube.Facts{
		Environment: p.spec.Name, ClusterDomain: "cluster.local", ClusterDNS: p.spec.ClusterDNS().String(),
		PodCIDR: p.spec.Network.Pods, ServiceCIDR: p.spec.Network.Services, Durability: string(p.spec.Durability),
		Servers: p.spec.Servers, Nodes: len(topology), Zones: len(zones),
		Egress:        p.spec.Network.Egress,
		AllowedImages: p.allowedImages(), ImageAction: p.imageAction(),
	}
}

// allowedImages are the references by digest that pods of guarded namespaces may run: all
// of the lock for this platform, whatever is selected, those that the catalogue pulls, and
// what orrery.yaml allows besides.
func (p *platform) allowedImages() []string {
	var refs []string
	if p.locked != nil {
		for name, img := range p.locked.Images {
			refs = append(refs, image.Built{Name: name, Version: img.Version, Digest: img.Digest}.Reference())
		}
	}
	for _, c := range p.catalog.Components {
		for _, img := range c.Images {
			if img.Registry != "" {
				refs = append(refs, image.Built{Name: img.Name, Version: img.Version, Digest: img.RegistryDigest()}.Reference())
			}
		}
	}
	refs = append(refs, p.spec.Images.Allow...)
	slices.Sort(refs)
	return slices.Compact(refs)
}

// imageAction is what becomes of a pod with another image. Without a lock nothing is known
// that could be enforced.
func (p *platform) imageAction() string {
	if p.locked == nil || p.spec.Images.Verify == spec.VerifyWarn {
		return "Warn"
	}
	return "Deny"
}

// references maps image names to what the mirror holds by digest; images that are not
// built yet keep their version tag.
func (p *platform) references() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	refs := map[string]string{}
	for name, img := range p.images {
		refs[name] = image.RegistryHost + "/" + name + ":" + img.Version
		if digest := img.RegistryDigest(); digest != "" {
			refs[name] += "@" + digest
		}
	}
	for name, b := range p.built {
		refs[name] = b.Reference()
	}
	return refs
}
