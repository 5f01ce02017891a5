package native

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/mirror"
)

// Where credentials are inside a node.
const nodePKI = "/etc/kubernetes/pki/"

// credentials makes everything that proves who somebody is: four authorities, the
// administrator's kubeconfig, and for each node only what its services need. The keys of
// the authorities and the administrator's are in no node, but for that of clients: servers sign
// with it what an approver approved. Only API servers believe it.
func credentials(i *issuer, p paths, c cluster, net network) error {
	if err := lostKeys(p, c); err != nil {
		return err
	}
	ca, err := i.authority(p.pki("ca"), "orrery-"+c.Environment)
	if err != nil {
		return err
	}
	etcd, err := i.authority(p.pki("etcd-ca"), "orrery-"+c.Environment+"-etcd")
	if err != nil {
		return err
	}
	front, err := i.authority(p.pki("front-proxy-ca"), "orrery-"+c.Environment+"-front-proxy")
	if err != nil {
		return err
	}
	clients, err := i.authority(p.pki("clients-ca"), "orrery-"+c.Environment+"-clients")
	if err != nil {
		return err
	}
	clientsKey, err := os.ReadFile(p.pki("clients-ca.key"))
	if err != nil {
		return err
	}
	saKey, saPub, err := signingKey(p.pki("sa"))
	if err != nil {
		return err
	}
	keys, err := readKeyring(p.pki(keyringFile))
	if err != nil {
		return err
	}
	if err := mirrorPassword(p.mirrorPassword()); err != nil {
		return err
	}
	admin := leaf{cn: "orrery-admin", orgs: []string{"system:masters"}, client: true}
	if err := i.leaf(ca, p.pki("admin"), admin); err != nil {
		return err
	}
	if err := adminKubeconfig(p, c, ca); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		dir := p.nodeEtc(n.Name, "kubernetes", "pki")
		at := func(name string) string { return filepath.Join(dir, name) }
		address := n.Address.String()
		type entry struct {
			ca   *authority
			name string
			leaf leaf
		}
		leaves := []entry{
			// One pair is both the node's identity and what its kubelet serves with.
			{
				ca,
				"kubelet",
				leaf{
					cn:     "system:node:" + n.Name,
					orgs:   []string{"system:nodes"},
					names:  []string{n.Name, address, "127.0.0.1"},
					server: true,
					client: true,
				},
			},
		}
		for _, u := range net.users(n) {
			leaves = append(leaves, entry{ca, u.name, u.leaf})
		}
		files := map[string][]byte{"ca.crt": ca.pem}
		if n.server() {
			local := []string{"localhost", "127.0.0.1", n.Name, address}
			leaves = append(leaves,
				entry{etcd, "etcd-server", leaf{cn: n.Name, names: local, server: true, client: true}},
				entry{etcd, "etcd-peer", leaf{cn: n.Name, names: local, server: true, client: true}},
				entry{etcd, "apiserver-etcd-client", leaf{cn: "kube-apiserver-etcd-client", client: true}},
				entry{ca, "apiserver", leaf{cn: "kube-apiserver", server: true, names: append(
					slices.Concat(local, c.Names),
					c.Gateway.String(),
					c.APIService.String(),
					"kubernetes",
					"kubernetes.default",
					"kubernetes.default.svc",
					"kubernetes.default.svc."+domain,
				)}},
				// No system:masters: the driver binds this user to system:kubelet-api-admin.
				entry{ca, "apiserver-kubelet-client", leaf{cn: kubeletClient, client: true}},
				entry{front, "front-proxy-client", leaf{cn: "front-proxy-client", client: true}},
				// Like the kubelet's: who they are, and what they serve their metrics with.
				entry{ca, "kube-controller-manager", leaf{cn: "system:kube-controller-manager", names: local, server: true, client: true}},
				entry{ca, "kube-scheduler", leaf{cn: "system:kube-scheduler", names: local, server: true, client: true}},
			)
			files["etcd-ca.crt"], files["front-proxy-ca.crt"] = etcd.pem, front.pem
			files["clients-ca.crt"], files["clients-ca.key"] = clients.pem, clientsKey
			files["apiserver-client-cas.crt"] = slices.Concat(ca.pem, clients.pem)
			files["sa.key"], files["sa.pub"] = saKey, saPub
			files[atRestConfig] = keys.config()
		}
		for _, e := range leaves {
			if err := i.leaf(e.ca, at(e.name), e.leaf); err != nil {
				return fmt.Errorf("credentials of %s: %w", n.Name, err)
			}
		}
		for name, content := range files {
			if _, err := writeFile(at(name), content); err != nil {
				return fmt.Errorf("credentials of %s: %w", n.Name, err)
			}
		}
	}
	return nil
}

// mirrorPassword keeps or makes what writing to the mirror needs. Nothing is lost with it: a
// person logs in again.
func mirrorPassword(file string) error {
	have, err := mirror.ReadPassword(file)
	if err != nil || have != "" {
		return err
	}
	_, err = writeFile(file, mirror.NewPassword())
	return err
}

const kubeletClient = "kube-apiserver-kubelet-client"

// adminKubeconfig is for the machine's root and for the program: it works whatever becomes of the
// cluster's roles.
func adminKubeconfig(p paths, c cluster, ca *authority) error {
	_, _, crt, err := loadPair(p.pki("admin"))
	if err != nil {
		return err
	}
	key, err := os.ReadFile(p.pki("admin.key"))
	if err != nil {
		return err
	}
	_, err = writeFile(p.kubeconfig(), hostKubeconfig(c, ca.pem, crt, key))
	return err
}

// hostKubeconfig embeds credentials, so that it can be merged into another and moved.
func hostKubeconfig(c cluster, ca, crt, key []byte) []byte {
	encode := base64.StdEncoding.EncodeToString
	return []byte(strings.NewReplacer(
		"NAME", "orrery-"+c.Environment, "PORT", fmt.Sprint(c.API),
		"CA_DATA", encode(ca), "CRT_DATA", encode(crt), "KEY_DATA", encode(key),
	).Replace(`apiVersion: v1
kind: Config
clusters:
- name: NAME
  cluster:
    server: https://127.0.0.1:PORT
    certificate-authority-data: CA_DATA
users:
- name: NAME
  user:
    client-certificate-data: CRT_DATA
    client-key-data: KEY_DATA
contexts:
- name: NAME
  context:
    cluster: NAME
    user: NAME
current-context: NAME
`))
}

// nodeKubeconfig refers to the pair NAME of the node.
func nodeKubeconfig(server, name string) []byte {
	return []byte(fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: orrery
  cluster:
    server: %s
    certificate-authority: %sca.crt
users:
- name: %[3]s
  user:
    client-certificate: %[2]s%[3]s.crt
    client-key: %[2]s%[3]s.key
contexts:
- name: orrery
  context:
    cluster: orrery
    user: %[3]s
current-context: orrery
`, server, nodePKI, name))
}
