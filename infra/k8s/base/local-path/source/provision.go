package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// Annotations of the controller that binds volumes, and of the scheduler.
const (
	wantedFrom     = "volume.kubernetes.io/storage-provisioner"
	wantedFromBeta = "volume.beta.kubernetes.io/storage-provisioner"
	selectedNode   = "volume.kubernetes.io/selected-node"
	provisionedBy  = "pv.kubernetes.io/provisioned-by"
	hostname       = "kubernetes.io/hostname"
	// keeps a volume until its folder is gone, whoever deletes it, and before or after its claim.
	finalizer = "orrery.dev/local-path"
)

type localSource struct {
	Path string `json:"path"`
}

type nodeAffinity struct {
	Required struct {
		Terms []term `json:"nodeSelectorTerms"`
	} `json:"required"`
}

type term struct {
	Expressions []expression `json:"matchExpressions"`
}

type expression struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values"`
}

// provisioner of one node.
type provisioner struct {
	api     *api
	folders folders
	node    string
	name    string // in storage classes
	log     *slog.Logger
	metrics metrics
}

type storageClass struct {
	Provisioner   string   `json:"provisioner"`
	ReclaimPolicy string   `json:"reclaimPolicy"`
	MountOptions  []string `json:"mountOptions"`

	VolumeBindingMode string            `json:"volumeBindingMode"`
	Parameters        map[string]string `json:"parameters"`
}

// claim makes the volume of a claim that was given to this node, and says why others get none.
func (p *provisioner) claim(ctx context.Context, c object) error {
	a := c.Metadata.Annotations
	switch {
	case c.Metadata.DeletionTimestamp != "" || c.Spec.StorageClassName == nil || a[wantedFrom] != p.name && a[wantedFromBeta] != p.name:
		return nil
	case c.Spec.VolumeName != "":
		return p.grown(ctx, c)
	case a[selectedNode] != p.node:
		return p.elsewhere(ctx, c)
	}
	name := "pvc-" + c.Metadata.UID
	err := p.api.do(ctx, http.MethodGet, "/api/v1/persistentvolumes/"+name, nil, nil)
	if err == nil {
		return nil // made already; to bind it is another's work
	}
	if !isStatus(err, http.StatusNotFound) {
		return err
	}
	if err := supported(c); err != nil {
		p.event(ctx, c, "Warning", "ProvisioningFailed", err.Error())
		return nil // a claim like that never works
	}
	class, err := p.class(ctx, c)
	if err != nil {
		return err
	}
	if class.Provisioner != p.name {
		return nil
	}
	if err := class.settable(); err != nil {
		p.event(ctx, c, "Warning", "ProvisioningFailed", err.Error())
		return nil // as above; a class cannot change
	}
	limits, err := p.folders.limits(c.Spec.Resources.Requests["storage"])
	if err != nil {
		p.event(ctx, c, "Warning", "ProvisioningFailed", err.Error())
		return nil // a disk that grows is seen when this starts again
	}
	folder := folderOf(name, c)
	path, err := p.folders.create(folder)
	if err != nil {
		p.event(ctx, c, "Warning", "ProvisioningFailed", err.Error())
		return err
	}
	err = p.api.do(ctx, http.MethodPost, "/api/v1/persistentvolumes", volumeOf(c, class, name, path, p.node, p.name), nil)
	if err != nil && !isStatus(err, http.StatusConflict) {
		if e, ok := errors.AsType[*statusError](err); ok && e.code/100 == 4 { // not made: nothing refers to the folder
			err = errors.Join(err, p.folders.remove(path))
		}
		return fmt.Errorf("volume for claim %s: %w", c.key(), err)
	}
	p.metrics.made.Add(1)
	p.log.Info("made", "volume", name, "claim", c.key())
	p.event(ctx, c, "Normal", "ProvisioningSucceeded", "made volume "+name+" on "+p.node+": "+limits)
	return nil
}

// folderOf names the folder of a volume so that a person finds it. A name of a file has 255 bytes
// at most; the volume's alone tells it from every other.
func folderOf(volume string, c object) string {
	folder := volume + "_" + c.Metadata.Namespace + "_" + c.Metadata.Name
	return folder[:min(len(folder), 255)]
}

// supported says what a folder cannot be.
func supported(c object) error {
	for _, m := range c.Spec.AccessModes {
		if m != "ReadWriteOnce" && m != "ReadWriteOncePod" {
			return fmt.Errorf("access mode %s: a folder of one node can be ReadWriteOnce or ReadWriteOncePod", m)
		}
	}
	switch {
	case c.Spec.VolumeMode != "" && c.Spec.VolumeMode != "Filesystem":
		return fmt.Errorf("volume mode %s: a folder can be Filesystem only", c.Spec.VolumeMode)
	case c.Spec.Selector != nil:
		return errors.New("a selector chooses among volumes that exist: this makes new ones")
	case c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil:
		return errors.New("a folder cannot be made from a snapshot or another claim")
	}
	return nil
}

func volumeOf(c object, class storageClass, name, path, node, provisioner string) map[string]any {
	reclaim := class.ReclaimPolicy
	if reclaim == "" {
		reclaim = "Delete"
	}
	affinity := nodeAffinity{}
	affinity.Required.Terms = []term{{[]expression{{hostname, "In", []string{node}}}}}
	spec := map[string]any{
		"capacity":                      map[string]string{"storage": c.Spec.Resources.Requests["storage"]},
		"accessModes":                   c.Spec.AccessModes,
		"volumeMode":                    "Filesystem",
		"persistentVolumeReclaimPolicy": reclaim,
		"storageClassName":              *c.Spec.StorageClassName,
		"claimRef": map[string]string{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": c.Metadata.Namespace,
			"name": c.Metadata.Name, "uid": c.Metadata.UID},
		// Not hostPath, which would give a pod an empty new folder when the volume's is gone:
		// this makes it fail to start and say so.
		"local":        localSource{path},
		"nodeAffinity": affinity,
	}
	if len(class.MountOptions) > 0 {
		spec["mountOptions"] = class.MountOptions
	}
	return map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolume",
		"metadata": map[string]any{"name": name, "annotations": map[string]string{provisionedBy: provisioner}, "finalizers": []string{finalizer}},
		"spec":     spec,
	}
}

// volume removes a released volume of this node, its folder first. One that somebody deletes is
// removed in the same way once no claim has it.
func (p *provisioner) volume(ctx context.Context, v object) error {
	if v.Metadata.Annotations[provisionedBy] != p.name || v.Spec.Local == nil {
		return nil
	}
	deleting := v.Metadata.DeletionTimestamp != ""
	if !onNode(v.Spec.NodeAffinity, p.node) {
		if deleting {
			return p.orphan(ctx, v)
		}
		return nil
	}
	switch {
	case v.Status.Phase == "Bound" || v.Status.Phase != "Released" && !deleting:
		if !deleting && !slices.Contains(v.Metadata.Finalizers, finalizer) { // made before there was one
			return p.finalizers(ctx, v, append(slices.Clone(v.Metadata.Finalizers), finalizer))
		}
		return nil
	case v.Spec.ReclaimPolicy != "Delete":
		if !deleting {
			return nil
		}
		return p.release(ctx, v) // the folder stays, as the volume says
	}
	if err := p.folders.remove(v.Spec.Local.Path); err != nil {
		return fmt.Errorf("volume %s: %w", v.Metadata.Name, err)
	}
	if deleting {
		p.removed(v)
		return p.release(ctx, v)
	}
	err := p.api.do(ctx, http.MethodDelete, "/api/v1/persistentvolumes/"+v.Metadata.Name, map[string]any{
		"apiVersion": "v1", "kind": "DeleteOptions",
		"preconditions": map[string]string{"uid": v.Metadata.UID},
	}, nil)
	if err != nil && !isStatus(err, http.StatusNotFound) && !isStatus(err, http.StatusConflict) {
		return fmt.Errorf("delete volume %s: %w", v.Metadata.Name, err)
	}
	if !slices.Contains(v.Metadata.Finalizers, finalizer) {
		p.removed(v) // else when it is seen again, being deleted
	}
	return nil
}

func (p *provisioner) removed(v object) {
	p.metrics.removed.Add(1)
	p.log.Info("removed", "volume", v.Metadata.Name)
}

// orphan lets a volume go whose node does not exist any more, and its folder with it.
func (p *provisioner) orphan(ctx context.Context, v object) error {
	if v.Status.Phase == "Bound" || v.Spec.NodeAffinity == nil || len(v.Spec.NodeAffinity.Required.Terms) != 1 {
		return nil
	}
	for _, e := range v.Spec.NodeAffinity.Required.Terms[0].Expressions {
		if e.Key != hostname || e.Operator != "In" || len(e.Values) != 1 {
			continue
		}
		err := p.api.do(ctx, http.MethodGet, "/api/v1/nodes/"+e.Values[0], nil, nil)
		if isStatus(err, http.StatusNotFound) {
			return p.release(ctx, v)
		}
		if err == nil {
			return errLater // its own program removes it
		}
		return err
	}
	return nil
}

// release takes our finalizer off a volume that is being deleted.
func (p *provisioner) release(ctx context.Context, v object) error {
	if !slices.Contains(v.Metadata.Finalizers, finalizer) {
		return nil
	}
	return p.finalizers(ctx, v, slices.DeleteFunc(slices.Clone(v.Metadata.Finalizers), func(f string) bool { return f == finalizer }))
}

func (p *provisioner) finalizers(ctx context.Context, v object, want []string) error {
	err := p.api.do(ctx, http.MethodPatch, "/api/v1/persistentvolumes/"+v.Metadata.Name, map[string]any{"metadata": map[string]any{
		"resourceVersion": v.Metadata.ResourceVersion, "finalizers": want,
	}}, nil)
	if err != nil && !isStatus(err, http.StatusNotFound) && !isStatus(err, http.StatusConflict) { // it has changed, and is seen again
		return fmt.Errorf("finalizers of volume %s: %w", v.Metadata.Name, err)
	}
	return nil
}

func onNode(a *nodeAffinity, node string) bool {
	if a == nil || len(a.Required.Terms) != 1 {
		return false
	}
	return slices.ContainsFunc(a.Required.Terms[0].Expressions, func(e expression) bool {
		return e.Key == hostname && e.Operator == "In" && slices.Equal(e.Values, []string{node})
	})
}

// event tells the claim's owner. One that cannot be written is no reason to stop. Its name says what
// it is about, so that what several see, or one sees again, is written once.
func (p *provisioner) event(ctx context.Context, c object, kind, reason, message string) {
	now := time.Now().UTC().Format(time.RFC3339)
	sum := sha256.Sum256([]byte(c.Metadata.UID + kind + reason + message))
	name := strings.TrimRight(c.Metadata.Name[:min(len(c.Metadata.Name), 200)], "-.") + "." + hex.EncodeToString(sum[:8])
	err := p.api.do(ctx, http.MethodPost, "/api/v1/namespaces/"+c.Metadata.Namespace+"/events", map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata": map[string]string{"name": name, "namespace": c.Metadata.Namespace},
		"involvedObject": map[string]string{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": c.Metadata.Namespace,
			"name": c.Metadata.Name, "uid": c.Metadata.UID, "resourceVersion": c.Metadata.ResourceVersion},
		"reason": reason, "message": message, "type": kind, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
		"source": map[string]string{"component": p.name, "host": p.node},
	}, nil)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !isStatus(err, http.StatusConflict) {
		p.log.Warn("event", "claim", c.key(), "error", err)
	}
}
