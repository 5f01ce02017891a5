package clangcache

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestGeneralise(t *testing.T) {
	text := strings.Join([]string{
		"#define IPV4_GATEWAY 0xd200f40a", "#define HOST_NETNS_COOKIE 39785", "#define IPV4_DIRECT_ROUTING 184572170",
		"#define MTU 1500", "#define CILIUM_NET_IFINDEX 3", "#define CILIUM_HOST_IFINDEX 99999999999",
		"#define CILIUM_NET_MAC {.addr={0xda,0x20,0xfe,0x71,0x25,0x6f}}",
		"#define BY_INDEX ({ union macaddr m = {.addr = {0x0, 0x0, 0x0, 0x0, 0x0, 0x0}}; m; })", "",
	}, "\n")
	in := &input{node: "n", files: map[string][]byte{"n": []byte(text)}, conditions: [][]byte{
		[]byte(" defined(IPV4_GATEWAY) && defined IPV4_GATEWAY\n"), []byte(" CILIUM_NET_IFINDEX > 2\n"),
	}}
	got, values := generalise(in)
	for _, kept := range []string{"#define MTU 1500\n", "#define CILIUM_NET_IFINDEX 3\n", "#define CILIUM_HOST_IFINDEX 99999999999\n", "{.addr = {0x0, 0x0"} {
		if !bytes.Contains(got, []byte(kept)) {
			t.Errorf("%q is gone:\n%s", kept, got)
		}
	}
	for _, gone := range []string{"d200f40a", "39785", "184572170", "0xda"} {
		if bytes.Contains(got, []byte(gone)) {
			t.Errorf("%q is still there:\n%s", gone, got)
		}
	}
	if len(values) != 4 || values[0].String() != "__config_orrery_ipv4_gateway=0af400d2" || values[3].String() != "__config_orrery_mac_3=da20fe71256f0000" {
		t.Errorf("values: %v", values)
	}
	if n := bytes.Count(got, []byte("volatile const")); n != 4 {
		t.Errorf("%d variables are declared:\n%s", n, got)
	}
}

// TestGeneraliseDevices: nodes whose devices have other numbers and addresses, as in containers, ask for the same.
func TestGeneraliseDevices(t *testing.T) {
	header := func(cases ...string) []byte {
		return []byte("#define NATIVE_DEV_MAC_BY_IFINDEX(IFINDEX) ({ \\\nunion macaddr __mac = {.addr = {0x0, 0x0, 0x0, 0x0, 0x0, 0x0}}; \\\nswitch (IFINDEX) { \\\n" +
			strings.Join(cases, "") + "} \\\n__mac; })\n#define MTU 1500\n")
	}
	device := func(number, last string) string {
		return " case " + number + ": {union macaddr __tmp = {.addr = {0x2,0x42,0xa,0x56,0x0," + last + "}}; __mac=__tmp;} break; \\\n"
	}
	ask := func(h []byte) (string, []value) {
		text, values := generalise(&input{node: "n", files: map[string][]byte{"n": h}})
		return string(text), values
	}
	one, values := ask(header(device("404", "0x3")))
	other, _ := ask(header(device("7", "0x4")))
	if one != other || strings.Contains(one, "case") || strings.Contains(one, "switch") || strings.Contains(one, "404") {
		t.Errorf("one node asks for\n%s\nanother for\n%s", one, other)
	}
	if len(values) != 2 || values[1].String() != "__config_orrery_device_1=94010000" {
		t.Errorf("values: %v", values)
	}
	if two, values := ask(header(device("404", "0x3"), device("405", "0x9"))); two == one || strings.Count(two, "if (__orrery_device == ") != 2 || len(values) != 4 {
		t.Errorf("two devices: %v\n%s", values, two)
	}
	if none, values := ask(header()); none != string(header()) || values != nil {
		t.Errorf("no device: %v\n%s", values, none)
	}
}

func fixture(t testing.TB) []byte {
	t.Helper()
	object, err := os.ReadFile("testdata/node.o")
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func TestFill(t *testing.T) {
	object := fixture(t)
	before := bytes.Clone(object)
	values := []value{
		{"__config_orrery_ipv4_gateway", []byte{1, 2, 3, 4}},
		{"__config_orrery_host_netns_cookie", []byte{11, 12, 13, 14, 15, 16, 17, 18}},
	}
	if err := fill(object, values); err != nil {
		t.Fatal(err)
	}
	changed := 0
	for i := range object {
		if object[i] != before[i] {
			changed++
		}
	}
	if changed != 12 || !bytes.Contains(object, values[0].data) || !bytes.Contains(object, values[1].data) {
		t.Errorf("%d bytes changed", changed)
	}
	for name, v := range map[string][]value{
		"no such variable": {{"__config_orrery_other", []byte{1}}},
		"another size":     {{"__config_orrery_ipv4_gateway", make([]byte, 8)}},
		"a function":       {{"gateway", make([]byte, 4)}},
	} {
		if err := fill(bytes.Clone(before), v); !errors.Is(err, errObject) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := fill([]byte("no ELF"), values); !errors.Is(err, errObject) {
		t.Errorf("no ELF: %v", err)
	}
}

func FuzzFill(f *testing.F) {
	f.Add(fixture(f))
	f.Fuzz(func(t *testing.T, object []byte) {
		_ = fill(object, []value{{"__config_orrery_ipv4_gateway", []byte{1, 2, 3, 4}}})
	})
}
