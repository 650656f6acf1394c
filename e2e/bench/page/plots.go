package page

import (
	"bytes"
	"fmt"
	"image/color"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// Names of the plots.
const (
	plotBlocked = "performance-blocked.svg"
	plotPassing = "performance-passing.svg"
	plotRefresh = "performance-refresh.svg"
)

// drawing is a plot of the page. draw returns nil without figures.
type drawing struct {
	name string
	draw func(*result.Result) ([]byte, error)
}

func plots() []drawing {
	return []drawing{
		{plotBlocked, func(r *result.Result) ([]byte, error) {
			return packetPlot(r, result.Blocked, "Cost of a blocked packet")
		}},
		{plotPassing, func(r *result.Result) ([]byte, error) {
			return packetPlot(r, result.Passing, "Cost of a passing packet")
		}},
		{plotRefresh, refreshPlot},
	}
}

// colorOf returns the colour of a contestant, the same in every plot. They differ also in brightness.
func colorOf(who result.Contestant) color.Color {
	switch who {
	case result.Agent:
		return color.RGBA{R: 0x0b, G: 0x5c, B: 0x9e, A: 0xff}
	case result.NFT:
		return color.RGBA{R: 0xe6, G: 0x9f, B: 0x00, A: 0xff}
	case result.IPSet:
		return color.RGBA{R: 0x66, G: 0x66, B: 0x66, A: 0xff}
	case result.AgentIPT:
		return color.RGBA{R: 0x7f, G: 0xb8, B: 0xe6, A: 0xff}
	default:
		return color.RGBA{R: 0xb0, G: 0xc9, B: 0x8f, A: 0xff}
	}
}

// newPlot returns an empty plot on a white ground, which is readable on a dark page.
func newPlot(title, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Y.Label.Text = y
	p.BackgroundColor = color.White
	p.Legend.Top = true
	p.Legend.Padding = vg.Points(3)
	p.Title.Padding = vg.Points(8)
	return p
}

// packetPlot draws the cost of a packet as a share of that with iptables and ipset: a group of bars
// for each list.
func packetPlot(r *result.Result, m result.Measure, title string) ([]byte, error) {
	cases := only(r.Cases(m), func(c result.Case) bool { return c.Variant == "" })
	if len(cases) == 0 {
		return nil, nil
	}
	p := newPlot(title, "share of iptables + ipset")
	p.Y.Min = 0
	p.Add(plotter.NewGrid())
	who := []result.Contestant{result.Agent, result.NFT, result.XDP}
	const width = 9 // points
	for i, w := range who {
		values := make(plotter.Values, len(cases))
		for j, c := range cases {
			if v, ok := r.Ratio(c, w, result.IPSet); ok {
				values[j] = v
			}
		}
		bars, err := plotter.NewBarChart(values, vg.Points(width))
		if err != nil {
			return nil, err
		}
		bars.Color = colorOf(w)
		bars.LineStyle.Width = 0
		bars.Offset = vg.Points(width * (float64(i) - float64(len(who)-1)/2))
		p.Add(bars)
		p.Legend.Add(string(w), bars)
	}
	one := plotter.NewFunction(func(float64) float64 { return 1 })
	one.Color, one.Width = colorOf(result.IPSet), vg.Points(1.5)
	p.Add(one)
	p.Legend.Add(string(result.IPSet), one)
	names := make([]string, len(cases))
	for i, c := range cases {
		names[i] = fmt.Sprintf("IPv%d\n%s\n%s", c.Family, c.Shape, thousands(fmt.Sprint(c.Entries)))
	}
	p.NominalX(names...)
	p.X.Tick.Label.Font.Size = vg.Points(8)
	p.X.Min, p.X.Max = -0.5, float64(len(cases))-0.5
	p.Y.Tick.Marker = plot.TickerFunc(func(low, high float64) (ticks []plot.Tick) {
		const step = 0.2
		for i := 0; low+step*float64(i) <= high; i++ {
			ticks = append(ticks, plot.Tick{Value: low + step*float64(i), Label: fmt.Sprintf("%.1f", step*float64(i))})
		}
		return ticks
	})
	p.Y.Max = max(p.Y.Max*1.35, 1.5) // room for the legend
	return svg(p, vg.Points(max(480, 46*float64(len(cases))+80)), vg.Points(300))
}

// refreshPlot draws the time of a refresh by the size of the list. Both axes are logarithmic.
func refreshPlot(r *result.Result) ([]byte, error) {
	if len(r.Cases(result.Whole)) == 0 {
		return nil, nil
	}
	p := newPlot("Time until a new list is in force", "ms")
	p.X.Label.Text = "entries"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.Y.Tick.Marker = plot.LogTicks{Prec: -1}
	var sizes plot.ConstantTicks
	for _, c := range r.Cases(result.Whole) {
		sizes = append(sizes, plot.Tick{Value: float64(c.Entries), Label: thousands(strconv.Itoa(c.Entries))})
	}
	p.X.Tick.Marker = sizes
	p.Add(plotter.NewGrid())
	p.Legend.Left = true
	for _, m := range []struct {
		measure result.Measure
		name    string
		dashes  []vg.Length
	}{{result.Whole, "whole", nil}, {result.Changed, "1% changed", []vg.Length{vg.Points(4), vg.Points(3)}}} {
		for _, who := range []result.Contestant{result.Agent, result.IPSet, result.NFT} {
			var points plotter.XYs
			for _, c := range r.Cases(m.measure) {
				if v, ok := r.Median(c, who); ok && v > 0 {
					points = append(points, plotter.XY{X: float64(c.Entries), Y: v})
				}
			}
			if len(points) == 0 {
				continue
			}
			line, dots, err := plotter.NewLinePoints(points)
			if err != nil {
				return nil, err
			}
			line.Color, line.Width, line.Dashes = colorOf(who), vg.Points(2), m.dashes
			dots.Color, dots.Shape = colorOf(who), draw.CircleGlyph{}
			p.Add(line, dots)
			p.Legend.Add(string(who)+", "+m.name, line)
		}
	}
	p.Y.Max *= 30 // room for the legend
	return svg(p, vg.Points(520), vg.Points(380))
}

// svg returns a plot as an SVG.
func svg(p *plot.Plot, width, height vg.Length) ([]byte, error) {
	canvas := vgsvg.New(width, height)
	p.Draw(draw.New(canvas))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
