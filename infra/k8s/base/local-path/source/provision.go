package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"time"
)

// Annotations of the controller that binds volumes, and of the scheduler.
const (
	wantedFrom     = "volume.kubernetes.io/storage-provisioner"
	wantedFromBeta = "volume.beta.kubernetes.io/storage-provisioner"
	selectedNode   = "volume.kubernetes.io/selected-node"
	provisionedBy  = "pv.kubernetes.io/provisioned-by"
	hostname       = "kubernetes.io/hostname"
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
}

// claim makes the volume of a claim that was given to this node.
func (p *provisioner) claim(ctx context.Context, c object) error {
	a := c.Metadata.Annotations
	if c.Spec.VolumeName != "" || c.Metadata.DeletionTimestamp != "" || a[selectedNode] != p.node ||
		a[wantedFrom] != p.name && a[wantedFromBeta] != p.name || c.Spec.StorageClassName == nil {
		return nil
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
	var class storageClass
	if err := p.api.do(ctx, http.MethodGet, "/apis/storage.k8s.io/v1/storageclasses/"+*c.Spec.StorageClassName, nil, &class); err != nil {
		return fmt.Errorf("storage class: %w", err)
	}
	if class.Provisioner != p.name {
		return nil
	}
	folder := name + "_" + c.Metadata.Namespace + "_" + c.Metadata.Name
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
	p.event(ctx, c, "Normal", "ProvisioningSucceeded", "made volume "+name+" on "+p.node)
	return nil
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
		"metadata": map[string]any{"name": name, "annotations": map[string]string{provisionedBy: provisioner}},
		"spec":     spec,
	}
}

// volume removes a released volume of this node, its folder first.
func (p *provisioner) volume(ctx context.Context, v object) error {
	if v.Status.Phase != "Released" || v.Spec.ReclaimPolicy != "Delete" || v.Metadata.Annotations[provisionedBy] != p.name ||
		v.Spec.Local == nil || !onNode(v.Spec.NodeAffinity, p.node) {
		return nil
	}
	if err := p.folders.remove(v.Spec.Local.Path); err != nil {
		return fmt.Errorf("volume %s: %w", v.Metadata.Name, err)
	}
	if v.Metadata.DeletionTimestamp != "" {
		return nil
	}
	err := p.api.do(ctx, http.MethodDelete, "/api/v1/persistentvolumes/"+v.Metadata.Name, map[string]any{
		"apiVersion": "v1", "kind": "DeleteOptions",
		"preconditions": map[string]string{"uid": v.Metadata.UID},
	}, nil)
	if err != nil && !isStatus(err, http.StatusNotFound) && !isStatus(err, http.StatusConflict) {
		return fmt.Errorf("delete volume %s: %w", v.Metadata.Name, err)
	}
	p.metrics.removed.Add(1)
	p.log.Info("removed", "volume", v.Metadata.Name)
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

// event tells the claim's owner. One that cannot be written is no reason to stop.
func (p *provisioner) event(ctx context.Context, c object, kind, reason, message string) {
	now := time.Now().UTC().Format(time.RFC3339)
	err := p.api.do(ctx, http.MethodPost, "/api/v1/namespaces/"+c.Metadata.Namespace+"/events", map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata": map[string]string{"generateName": c.Metadata.Name + ".", "namespace": c.Metadata.Namespace},
		"involvedObject": map[string]string{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": c.Metadata.Namespace,
			"name": c.Metadata.Name, "uid": c.Metadata.UID, "resourceVersion": c.Metadata.ResourceVersion},
		"reason": reason, "message": message, "type": kind, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
		"source": map[string]string{"component": p.name, "host": p.node},
	}, nil)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		p.log.Warn("event", "claim", c.key(), "error", err)
	}
}
