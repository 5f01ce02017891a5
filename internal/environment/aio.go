package environment

import (
	"context"
	"strconv"
	"strings"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
)

// aioConditions say whether the host has the slots for asynchronous I/O that components take. One
// that has too few refuses nothing: what is taken may be theirs, and only their own pods fail.
func aioConditions(components []catalog.Component, read func(string) ([]byte, error)) []check.Condition {
	need, who := 0, []string{}
	for _, c := range components {
		if c.AIO > 0 {
			need, who = need+c.AIO, append(who, c.Name)
		}
	}
	if need == 0 {
		return nil
	}
	return []check.Condition{{Component: "host", Name: "aio", Probe: func(context.Context) check.Result {
		return aio(need, strings.Join(who, ", "), read)
	}}}
}

func aio(need int, who string, read func(string) ([]byte, error)) check.Result {
	var have [2]int
	for i, name := range []string{"aio-max-nr", "aio-nr"} {
		data, err := read("/proc/sys/fs/" + name)
		if err == nil {
			have[i], err = strconv.Atoi(strings.TrimSpace(string(data)))
		}
		if err != nil {
			return check.Skip("cannot say whether there are %d slots for asynchronous I/O, which %s takes: %v", need, who, err)
		}
	}
	limit, used := have[0], have[1]
	if free := limit - used; free < need {
		return check.Skip("%s takes %d slots for asynchronous I/O, and %d of %d are free; unless those in use are its own: sysctl -w fs.aio-max-nr=%d",
			who, need, free, limit, max(1<<20, limit+need))
	}
	return check.OK("%d of %d slots for asynchronous I/O are in use; %s takes %d", used, limit, who, need)
}
