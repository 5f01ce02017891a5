package layers

import (
	"errors"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// Config of the plugin io.containerd.snapshotter.v1.overlayfs.
type Config struct {
	Store  string `toml:"store"`  // folder of shared layers; needed
	Socket string `toml:"socket"` // of the store's keeper; needed
}

func init() {
	registry.Register(&plugin.Registration{
		Type: plugins.SnapshotPlugin,
		// In place of upstream's, whose snapshots it understands.
		ID:     "overlayfs",
		Config: &Config{},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			c, ok := ic.Config.(*Config)
			if !ok || c.Store == "" || c.Socket == "" {
				return nil, errors.New("the overlayfs snapshotter with shared layers needs the settings store and socket")
			}
			ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
			// As upstream's overlay plugin: users of pods are mapped by the mount, never by
			// changing owners of files, which are shared.
			var options []overlay.Opt
			if ok, err := overlayutils.SupportsIDMappedMounts(); err == nil && ok {
				options = append(options, overlay.WithRemapIDs)
				ic.Meta.Capabilities = append(ic.Meta.Capabilities, "remap-ids")
			}
			ic.Meta.Capabilities = append(ic.Meta.Capabilities, "only-remap-ids")
			root := ic.Properties[plugins.PropertyRootDir]
			ic.Meta.Exports[plugins.SnapshotterRootDir] = root
			s, err := overlay.NewSnapshotter(root, append(options, overlay.AsynchronousRemove)...)
			if err != nil {
				return nil, err
			}
			return newSnapshotter(s, c.Store, c.Socket), nil
		},
	})
}
