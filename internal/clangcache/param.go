package clangcache

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Cilium has two ways of telling its datapath a number. Those that were added in recent years
// are variables in the section .rodata.config, whose values the loader fills in when the object
// was compiled (bpf/lib/static_data.h); older ones are macros of node_config.h. Some of the
// latter differ from node to node. They are moved to the first way: the macro reads a variable,
// and the variable's bytes are put into the object for the node that asked. The loader leaves
// variables that it does not know as they are. As constants of a read-only map the kernel's
// verifier knows their values, as it does those of macros.

// value is what one node has for a variable.
type value struct {
	name string // of the variable
	data []byte // as it lies in memory
}

// numbers are macros of node_config.h that stand for one number of the node, with their type.
var numbers = map[string]string{
	"IPV4_GATEWAY":        "unsigned int",
	"IPV4_DIRECT_ROUTING": "unsigned int",
	"HOST_NETNS_COOKIE":   "unsigned long long",
	"CILIUM_NET_IFINDEX":  "unsigned int",
	"CILIUM_HOST_IFINDEX": "unsigned int",
}

var (
	defined = regexp.MustCompile(`(?m)^#define[ \t]+(\w+)[ \t]+(0x[0-9a-fA-F]+|[0-9]+)[ \t]*$`)
	// address is an initialiser of Cilium's union macaddr.
	address = regexp.MustCompile(`\{\s*\.addr\s*=\s*\{\s*(0x[0-9a-fA-F]{1,2}(?:\s*,\s*0x[0-9a-fA-F]{1,2}){5})\s*\}\s*\}`)
	// devices is the choice of a device's address by its number, and deviceCase one of them.
	devices     = regexp.MustCompile(`switch \(IFINDEX\) \{ *\\\n(?: case [0-9]+: .* break; *\\\n)+\}`)
	deviceCase  = regexp.MustCompile(`(?m)^ case ([0-9]+): (.*) break;`)
	byteForm    = regexp.MustCompile(`0x[0-9a-fA-F]{1,2}`)
	definedForm = regexp.MustCompile(`\bdefined\s*(?:\(\s*(\w+)\s*\)|(\w+))`)
	word        = regexp.MustCompile(`\w+`)
)

// generalise returns node_config.h with variables in place of the node's numbers, and what they
// are for this node. Macros that any of the other files has the preprocessor calculate with
// stay numbers.
func generalise(in *input) (text []byte, values []value) {
	text = in.files[in.node]
	var declarations bytes.Buffer
	declare := func(name, typ string, size int) {
		fmt.Fprintf(&declarations, "__attribute__((section(%q))) volatile const %s %s%s;\n", configSection, typ, name,
			map[bool]string{true: "[" + strconv.Itoa(size) + "]"}[typ == "unsigned char"])
	}
	text = defined.ReplaceAllFunc(text, func(line []byte) []byte {
		m := defined.FindSubmatch(line)
		macro := string(m[1])
		typ := numbers[macro]
		number, err := strconv.ParseUint(string(m[2]), 0, 64)
		if typ == "" || err != nil || in.calculates(macro) {
			return line
		}
		v := value{name: variable + strings.ToLower(macro), data: binary.NativeEndian.AppendUint64(nil, number)}
		if typ == "unsigned int" {
			if number > 1<<32-1 {
				return line
			}
			v.data = binary.NativeEndian.AppendUint32(nil, uint32(number))
		}
		values = append(values, v)
		declare(v.name, typ, 0)
		return fmt.Appendf(nil, "#define %s %s", macro, read(v.name, typ))
	})
	text = address.ReplaceAllFunc(text, func(init []byte) []byte {
		v := value{name: variable + "mac_" + strconv.Itoa(len(values))}
		for _, b := range byteForm.FindAll(address.FindSubmatch(init)[1], -1) {
			n, err := strconv.ParseUint(string(b), 0, 8)
			if err != nil {
				return init
			}
			v.data = append(v.data, byte(n))
		}
		if bytes.Equal(v.data, make([]byte, 6)) {
			return init // where no device is known
		}
		v.data = append(v.data, 0, 0) // the union is 8 bytes long
		values = append(values, v)
		declare(v.name, "unsigned char", len(v.data))
		return []byte(read(v.name, "union macaddr"))
	})
	// The device's number is the label of a case, which has to be a constant: comparisons take its place. In a
	// container it is one that no other on the machine has, and another at each start.
	text = devices.ReplaceAllFunc(text, func(choice []byte) []byte {
		choice = deviceCase.ReplaceAllFunc(choice, func(label []byte) []byte {
			m := deviceCase.FindSubmatch(label)
			number, err := strconv.ParseUint(string(m[1]), 10, 32)
			if err != nil {
				return label
			}
			v := value{name: variable + "device_" + strconv.Itoa(len(values)), data: binary.NativeEndian.AppendUint32(nil, uint32(number))}
			values = append(values, v)
			declare(v.name, "unsigned int", 0)
			return fmt.Appendf(nil, "if (__orrery_device == %s) %s", read(v.name, "unsigned int"), m[2])
		})
		return bytes.Replace(choice, []byte("switch (IFINDEX) {"), []byte("{ const unsigned int __orrery_device = (IFINDEX);"), 1)
	})
	if len(values) == 0 {
		return text, nil
	}
	return append(declarations.Bytes(), text...), values
}

// calculates reports whether the preprocessor wants the macro's number. Whether there is such a
// macro does not change.
func (in *input) calculates(macro string) bool {
	for _, line := range in.conditions {
		if !bytes.Contains(line, []byte(macro)) {
			continue
		}
		for _, w := range word.FindAll(definedForm.ReplaceAll(line, nil), -1) {
			if string(w) == macro {
				return true
			}
		}
	}
	return false
}

const (
	configSection = ".rodata.config"
	variable      = "__config_orrery_" // begins the names of ours
)

// read is an expression for a variable, in the form in which Cilium reads its own: the loader
// knows it by the two instructions.
func read(name, typ string) string {
	return fmt.Sprintf(`(*({ void *__orrery_at; asm volatile("%%0 = %s ll" : "=r"(__orrery_at)); (const %s *)__orrery_at; }))`, name, typ)
}

// errObject is wrapped by errors about an object that has no place for a value.
var errObject = errors.New("unexpected object")

// fill puts the values into an object that was compiled with their variables.
func fill(object []byte, values []value) error {
	if len(values) == 0 {
		return nil
	}
	f, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return fmt.Errorf("%w: %w", errObject, err)
	}
	symbols, err := f.Symbols()
	if err != nil {
		return fmt.Errorf("%w: %w", errObject, err)
	}
	for _, v := range values {
		found := false
		for _, s := range symbols {
			if s.Name != v.name {
				continue
			}
			if int(s.Section) >= len(f.Sections) {
				return fmt.Errorf("%w: %s is in no section", errObject, v.name)
			}
			sec := f.Sections[s.Section]
			end := s.Value + uint64(len(v.data))
			if sec.Name != configSection || sec.Type != elf.SHT_PROGBITS || sec.Flags&elf.SHF_COMPRESSED != 0 ||
				s.Size != uint64(len(v.data)) || end > sec.FileSize || sec.Offset+end > uint64(len(object)) {
				return fmt.Errorf("%w: %s", errObject, v.name)
			}
			copy(object[sec.Offset+s.Value:], v.data)
			found = true
		}
		if !found {
			return fmt.Errorf("%w: it has no %s", errObject, v.name)
		}
	}
	return nil
}

// String is for messages.
func (v value) String() string { return v.name + "=" + hex.EncodeToString(v.data) }
