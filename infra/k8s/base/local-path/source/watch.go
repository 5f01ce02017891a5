package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// object is as much of claims and volumes as is needed.
type object struct {
	Kind     string `json:"kind,omitempty"`
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		ResourceVersion   string            `json:"resourceVersion"`
		DeletionTimestamp string            `json:"deletionTimestamp"`
		Annotations       map[string]string `json:"annotations"`
		Finalizers        []string          `json:"finalizers"`
	} `json:"metadata"`
	Spec struct {
		// Of a claim.
		VolumeName       string   `json:"volumeName"`
		StorageClassName *string  `json:"storageClassName"`
		AccessModes      []string `json:"accessModes"`
		VolumeMode       string   `json:"volumeMode"`
		Selector         any      `json:"selector"`
		DataSource       any      `json:"dataSource"`
		DataSourceRef    any      `json:"dataSourceRef"`
		Resources        struct {
			Requests map[string]string `json:"requests"`
		} `json:"resources"`
		// Of a volume.
		ReclaimPolicy string        `json:"persistentVolumeReclaimPolicy"`
		Local         *localSource  `json:"local"`
		NodeAffinity  *nodeAffinity `json:"nodeAffinity"`
	} `json:"spec"`
	Status struct {
		Phase    string            `json:"phase"`
		Capacity map[string]string `json:"capacity"` // of a claim
	} `json:"status"`
}

func (o object) key() string { return o.Metadata.Namespace + "/" + o.Metadata.Name }

// Pauses between tries, of the API and of one object.
const (
	firstPause = 250 * time.Millisecond
	lastPause  = 30 * time.Second
)

// watcher hands every object of one kind, as it is now, to a handler, one at a time, and
// again after a growing pause when the handler fails.
type watcher struct {
	api    *api
	path   string
	handle func(context.Context, object) error
	log    *slog.Logger

	known map[string]object
	tries map[string]int
	again chan string
}

// watch runs until ctx ends.
func watch(ctx context.Context, a *api, path string, handle func(context.Context, object) error, log *slog.Logger) {
	w := &watcher{api: a, path: path, handle: handle, log: log, again: make(chan string), tries: map[string]int{}}
	for failures := 0; ctx.Err() == nil; {
		err := w.once(ctx, func() { failures = 0 })
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Warn("watch", "path", path, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pauseAfter(failures)):
		}
		failures++
	}
}

func pauseAfter(failures int) time.Duration {
	return min(firstPause<<min(failures, 10), lastPause)
}

// once lists and then follows, until the API no longer knows where we were, or fails.
func (w *watcher) once(ctx context.Context, listed func()) error {
	var list struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Items []object `json:"items"`
	}
	if err := w.api.do(ctx, http.MethodGet, w.path, nil, &list); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	listed()
	w.known = map[string]object{}
	for _, o := range list.Items {
		w.see(ctx, "ADDED", o)
	}
	version := list.Metadata.ResourceVersion
	for {
		var err error
		if version, err = w.follow(ctx, version); err != nil {
			return err
		}
	}
}

type change struct {
	kind   string
	object object
	err    error
}

// follow handles changes after version until the API ends the watch in good order, and
// returns the version that it came to.
func (w *watcher) follow(outer context.Context, version string) (string, error) {
	ctx, cancel := context.WithCancel(outer) // ends the reader
	defer cancel()
	query := url.Values{"watch": {"1"}, "resourceVersion": {version}, "allowWatchBookmarks": {"1"}, "timeoutSeconds": {"290"}}
	body, err := w.api.open(ctx, http.MethodGet, w.path+"?"+query.Encode(), nil)
	if err != nil {
		return version, fmt.Errorf("watch: %w", err)
	}
	defer body.Close()
	changes := make(chan change)
	go read(ctx, body, changes)
	for {
		select {
		case key := <-w.again:
			if o, ok := w.known[key]; ok {
				w.see(outer, "MODIFIED", o)
			}
		case c := <-changes:
			switch {
			case errors.Is(c.err, io.EOF):
				return version, nil
			case c.err != nil:
				return version, fmt.Errorf("watch: %w", c.err)
			case c.kind == "ERROR":
				return version, errors.New("watch: the API has forgotten where this was; it lists again")
			}
			version = c.object.Metadata.ResourceVersion
			if c.kind != "BOOKMARK" {
				w.see(outer, c.kind, c.object)
			}
		case <-ctx.Done():
			return version, context.Cause(ctx)
		}
	}
}

func read(ctx context.Context, body io.Reader, changes chan<- change) {
	d := json.NewDecoder(body)
	for {
		var e struct {
			Type   string `json:"type"`
			Object object `json:"object"`
		}
		err := d.Decode(&e)
		select {
		case changes <- change{e.Type, e.Object, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// see remembers o and handles it.
func (w *watcher) see(ctx context.Context, kind string, o object) {
	key := o.key()
	if kind == "DELETED" {
		delete(w.known, key)
		delete(w.tries, key)
		return
	}
	w.known[key] = o
	err := w.handle(ctx, o)
	if err == nil {
		delete(w.tries, key)
		return
	}
	if !errors.Is(err, errLater) {
		w.log.Warn("try again", "object", key, "error", err)
	}
	pause := pauseAfter(w.tries[key])
	w.tries[key]++
	time.AfterFunc(pause, func() {
		select {
		case w.again <- key:
		case <-ctx.Done():
		}
	})
}
