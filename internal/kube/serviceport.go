package kube

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ServicePort is a port of a Service that speaks TCP.
type ServicePort struct {
	Name string // as the Service calls it; may be empty
	Port int    // 1 to 65535
	// Scheme is http or https where the Service says that the port speaks it, or the port's name
	// or number does; else empty.
	Scheme string
}

// ServicePort is the port of a Service with a name or number, or its only one when which is empty.
// Of several, the error says what there is to choose from. The error of a missing Service satisfies
// apierrors.IsNotFound.
func (c *Client) ServicePort(ctx context.Context, namespace, service, which string) (ServicePort, error) {
	ports, err := c.servicePorts(ctx, namespace, service)
	if err != nil {
		return ServicePort{}, err
	}
	var names []string
	for _, p := range ports {
		names = append(names, strings.TrimSuffix(fmt.Sprintf("%d (%s)", p.Port, p.Name), " ()"))
	}
	i := slices.IndexFunc(ports, func(p ServicePort) bool { return p.Name == which || strconv.Itoa(p.Port) == which })
	switch {
	case len(ports) == 0:
		return ServicePort{}, fmt.Errorf("service %s/%s has no TCP port", namespace, service)
	case i >= 0 && which != "":
		return ports[i], nil
	case which != "":
		return ServicePort{}, fmt.Errorf("service %s/%s has no TCP port %q; it has %s", namespace, service, which, strings.Join(names, ", "))
	case len(ports) > 1:
		return ServicePort{}, fmt.Errorf("service %s/%s has several ports; say which: %s/%s:%d, of %s",
			namespace, service, namespace, service, ports[0].Port, strings.Join(names, ", "))
	}
	return ports[0], nil
}

// servicePorts are those of a Service that speak TCP.
func (c *Client) servicePorts(ctx context.Context, namespace, service string) (found []ServicePort, err error) {
	svc, err := c.Get(ctx, "v1", "Service", namespace, service)
	if err != nil {
		return nil, err
	}
	if name, _, _ := unstructured.NestedString(svc.Object, "spec", "externalName"); name != "" {
		return nil, fmt.Errorf("service %s/%s is another name of %s and has no pods", namespace, service, name)
	}
	ports, _, _ := unstructured.NestedSlice(svc.Object, "spec", "ports")
	for _, p := range ports {
		m, _ := p.(map[string]any)
		name, _ := m["name"].(string)
		number, _ := m["port"].(int64)
		speaks, _ := m["appProtocol"].(string)
		if protocol, _ := m["protocol"].(string); protocol == "" || protocol == "TCP" {
			found = append(found, ServicePort{name, int(number), scheme(speaks, name, number)})
		}
	}
	return found, nil
}

// scheme of what a port speaks: by what the Service says (the names are IANA's and Kubernetes'
// own), else by the habit of naming ports PROTOCOL-WHATEVER, else by the number.
func scheme(speaks, name string, number int64) string {
	stated := speaks != ""
	if !stated {
		speaks, _, _ = strings.Cut(name, "-")
	}
	switch strings.ToLower(speaks) {
	case "http", "web", "kubernetes.io/ws":
		return "http"
	case "https", "kubernetes.io/wss":
		return "https"
	case "grpc", "tcp", "tls":
		return ""
	}
	switch {
	case stated:
		return ""
	case number == 80 || number == 8080:
		return "http"
	case number == 443 || number == 8443:
		return "https"
	}
	return ""
}
