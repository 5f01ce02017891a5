package console

import (
	"context"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/observe"
)

type boardData struct {
	Board     dashboard.Dashboard
	Ranges    []choice
	Range     string
	Variables []variableData
	Rows      []rowData
	Grafana   string
}

type variableData struct {
	dashboard.Variable
	Values []string
	Chosen string
}

type rowData struct {
	Title  string
	Panels []panelData
}

type panelData struct {
	dashboard.Panel
	ID    string
	Class string
}

func (c *Console) board(ctx context.Context, r *http.Request) (*view, error) {
	i := slices.IndexFunc(c.Dashboards, func(d dashboard.Dashboard) bool { return d.Name == r.PathValue("name") })
	if i < 0 {
		return nil, fmt.Errorf("There is no dashboard %q.", r.PathValue("name")) //nolint:staticcheck // it is what the page says
	}
	board := c.Dashboards[i]
	q := r.URL.Query()
	span := spanOf(q.Get("range"), board.Span())
	data := boardData{Board: board, Ranges: choices(r.URL, span), Range: q.Get("range")}
	chosen := dashboard.Selection{}
	for _, v := range board.Variables {
		value := v.Default
		if q.Has(v.Name) {
			value = cut(q.Get(v.Name), 200)
		}
		chosen[v.Name] = value
		vd := variableData{Variable: v, Chosen: value}
		if !v.Text {
			vd.Values = c.values(ctx, v)
			if value != "" && !slices.Contains(vd.Values, value) {
				vd.Values = append([]string{value}, vd.Values...)
			}
		}
		data.Variables = append(data.Variables, vd)
	}
	v := &view{Template: "board.html", Title: board.Title}
	type slot struct {
		id string
		a  ask
	}
	var slots []slot
	for i, row := range board.Rows {
		rd := rowData{Title: row.Title}
		for j, p := range row.Panels {
			id := fmt.Sprintf("p-%d-%d", i, j)
			rd.Panels = append(rd.Panels, panelData{p, id, fmt.Sprintf("w%d h%d k-%s", p.WidthOr(), p.HeightOr(), p.Kind)})
			slots = append(slots, slot{id, ask{board, p, chosen, span}})
		}
		data.Rows = append(data.Rows, rd)
	}
	// All at once: the drawer keeps order among them.
	html := make([]template.HTML, len(slots))
	done := make(chan int, len(slots))
	for i, s := range slots {
		go func() {
			h, stale, ok := c.drawer.get(ctx, s.a)
			switch {
			case !ok:
				h = `<p class="wait"><span class="sr">loading</span></p>`
			case stale:
				h = `<p class="stale">from before; asking again</p>` + h
			}
			html[i] = h
			done <- i
		}()
	}
	for range slots {
		<-done
	}
	for i, s := range slots {
		v.add(s.id, html[i])
	}
	v.Data = data
	return v, nil
}

// values of a variable, as far as they come in time.
func (c *Console) values(ctx context.Context, v dashboard.Variable) []string {
	var all []string
	if v.Source == dashboard.Loki {
		all, _ = c.sources.loki.LabelValues(ctx, v.Label, v.Match, observe.Last(6*time.Hour))
	} else {
		all, _ = c.sources.prometheus.LabelValues(ctx, v.Label, v.Match)
	}
	return all[:min(len(all), 300)]
}
