package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// errLater says that nothing is wrong with us, and that it is worth another look.
var errLater = errors.New("cannot be served now")

type nodeObject struct {
	Status struct {
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

// elsewhere looks at a claim that no program serves: the one of its node would, and may not be
// there. All that run see it and say the same, so that it is written once.
func (p *provisioner) elsewhere(ctx context.Context, c object) error {
	node := c.Metadata.Annotations[selectedNode]
	if node == "" {
		return p.withoutNode(ctx, c)
	}
	var n nodeObject
	err := p.api.do(ctx, http.MethodGet, "/api/v1/nodes/"+node, nil, &n)
	switch {
	case isStatus(err, http.StatusNotFound):
		p.event(ctx, c, "Warning", "ProvisioningFailed", "node "+node+", which was chosen for it, does not exist any more: another is chosen")
		err := p.api.do(ctx, http.MethodPatch, claimPath(c), map[string]any{"metadata": map[string]any{
			"resourceVersion": c.Metadata.ResourceVersion, "annotations": map[string]any{selectedNode: nil},
		}}, nil)
		if isStatus(err, http.StatusNotFound) || isStatus(err, http.StatusConflict) {
			return nil // another saw it first
		}
		return err
	case err != nil:
		return err
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == "Ready" && condition.Status != "True" {
			p.event(ctx, c, "Warning", "ProvisioningWaits",
				"node "+node+", which was chosen for it, is not ready: the volume is made when it is back")
		}
	}
	return errLater
}

// withoutNode: a class that binds at once asks for a volume of no node.
func (p *provisioner) withoutNode(ctx context.Context, c object) error {
	class, err := p.class(ctx, c)
	if err != nil {
		return err
	}
	if class.Provisioner == p.name && cmp.Or(class.VolumeBindingMode, "Immediate") == "Immediate" {
		p.event(ctx, c, "Warning", "ProvisioningFailed", "storage class "+*c.Spec.StorageClassName+
			" binds at once (volumeBindingMode Immediate), and a folder is of one node: it takes volumeBindingMode WaitForFirstConsumer")
	}
	return nil
}

// grown says that a volume stays as large as it is.
func (p *provisioner) grown(ctx context.Context, c object) error {
	asked, has := c.Spec.Resources.Requests["storage"], c.Status.Capacity["storage"]
	if has != "" && size(asked) > size(has) && c.Metadata.Annotations[selectedNode] == p.node {
		p.event(ctx, c, "Warning", "VolumeResizeFailed",
			"a folder cannot be made larger than "+has+". No limit holds it either: it may use what the disk of node "+p.node+" has")
	}
	return nil
}

func (p *provisioner) class(ctx context.Context, c object) (class storageClass, err error) {
	if err := p.api.do(ctx, http.MethodGet, "/apis/storage.k8s.io/v1/storageclasses/"+*c.Spec.StorageClassName, nil, &class); err != nil {
		return class, fmt.Errorf("storage class: %w", err)
	}
	return class, nil
}

// settable says what cannot be done of what a class asks for.
func (class storageClass) settable() error {
	if len(class.Parameters) > 0 {
		return fmt.Errorf("the storage class has the parameters %s: a folder has nothing to set",
			strings.Join(slices.Sorted(maps.Keys(class.Parameters)), ", "))
	}
	return nil
}

// limits says how far a size holds, for people. More than the disk could ever hold is an error.
func (f folders) limits(asked string) (string, error) {
	const unheld = "no limit holds its size"
	var s syscall.Statfs_t
	if err := syscall.Statfs(f.root.Name(), &s); err != nil || s.Bsize <= 0 {
		return unheld, nil //nolint:nilerr // who cannot be asked refuses nothing
	}
	disk, free := float64(s.Blocks)*float64(s.Bsize), float64(s.Bavail)*float64(s.Bsize)
	switch want := size(asked); {
	case want > disk:
		return "", fmt.Errorf("the claim asks for %s, and the node's whole disk has %s: make it anew and ask for less",
			asked, gibibytes(disk))
	case want > free:
		return fmt.Sprintf("the disk has %s, of which %s are free, less than the %s that the claim asks for; %s",
			gibibytes(disk), gibibytes(free), asked, unheld), nil
	}
	return unheld, nil
}

func gibibytes(n float64) string { return strconv.FormatFloat(n/(1<<30), 'f', 1, 64) + " GiB" }

// size of a quantity of the API in bytes; 0 of one that is none.
func size(quantity string) float64 {
	units := map[string]float64{"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
		"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}
	number, unit := quantity, 1.0
	for _, length := range []int{2, 1} {
		if len(quantity) > length {
			if u, ok := units[quantity[len(quantity)-length:]]; ok {
				number, unit = quantity[:len(quantity)-length], u
				break
			}
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0
	}
	return n * unit
}

func claimPath(c object) string {
	return "/api/v1/namespaces/" + c.Metadata.Namespace + "/persistentvolumeclaims/" + c.Metadata.Name
}
