package k3d

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"net/http"

	"go.yaml.in/yaml/v3"

	"github.com/orrery-dev/orrery/internal/spec"
)

// mendBalancer makes the load balancer anew when somebody removed its container, as k3d does: nothing is lost
// with it but the way to the API.
func (d *Driver) mendBalancer(ctx context.Context, s seen) error {
	name := balancerName(d.Spec.Name)
	if _, ok := s.nodes[name]; ok {
		return nil
	}
	d.Log.Warn("the load balancer was removed, and is made anew", "container", name)
	image, err := d.balancerImage(ctx)
	if err != nil {
		return err
	}
	const port = "6443/tcp"
	var made container
	if err := d.engine.call(ctx, http.MethodPost, "/containers/create?name="+name, object{
		"Image": image, "Hostname": name, "ExposedPorts": object{port: object{}},
		"Labels": object{"app": "k3d", labelCluster: clusterName(d.Spec.Name), labelRole: "loadbalancer"},
		"HostConfig": object{
			"PortBindings":  object{port: []object{{"HostIp": "127.0.0.1", "HostPort": fmt.Sprint(d.Spec.Ports.API)}}},
			"RestartPolicy": object{"Name": "unless-stopped"}, "Init": true, "NetworkMode": networkName(d.Spec.Name),
		},
		"NetworkingConfig": object{"EndpointsConfig": object{networkName(d.Spec.Name): object{
			"IPAMConfig": object{"IPv4Address": ownAddresses(d.Spec)[name].String()},
		}}},
	}, &made); err != nil {
		return fmt.Errorf("make the load balancer %s, which somebody removed, anew: %w", name, err)
	}
	values, err := balancerValues(d.Spec)
	if err == nil {
		err = d.engine.put(ctx, made.ID, "etc/confd/values.yaml", values)
	}
	if err != nil {
		return fmt.Errorf("tell the load balancer %s about servers: %w", name, err)
	}
	made.Names, made.State = []string{"/" + name}, "created"
	s.nodes[name] = made
	return nil
}

// balancerValues tell the load balancer which servers there are, as k3d would.
func balancerValues(e spec.Environment) ([]byte, error) {
	var servers []string
	for _, p := range places(e) {
		if p.node.Role == spec.RoleServer {
			servers = append(servers, p.name)
		}
	}
	return yaml.Marshal(object{
		"ports": object{"6443.tcp": servers}, "settings": object{"workerConnections": 1024, "defaultProxyTimeout": 600},
	})
}

// put writes a file into a container.
func (e *engine) put(ctx context.Context, id, name string, content []byte) error {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
		return err
	}
	if _, err := t.Write(content); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, base+"/containers/"+id+"/archive?path=/", &b)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-tar")
	r, err := e.send(req)
	if err != nil {
		return err
	}
	return r.Body.Close()
}
