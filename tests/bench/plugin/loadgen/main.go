// Loadgen is the kubelet's side of DRA for benchmarks: one JSON command a line on stdin, one JSON result a line on
// stdout, until stdin ends. Times are nanoseconds since the epoch, durations microseconds. A failed command answers
// {"error": "..."} and leaves the client usable.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// command is one line of stdin; each operation reads what it needs.
type command struct {
	Op       string    `json:"op"`
	Registry string    `json:"registry"`
	Plugins  string    `json:"plugins"`
	Driver   string    `json:"driver"`
	TimeoutS float64   `json:"timeout_s"`
	Claims   []claim   `json:"claims"`
	Callers  [][]claim `json:"callers"`
	Seconds  float64   `json:"seconds"`
}

// timings are the durations of the calls of one command.
type timings struct {
	PrepareUs   []float64 `json:"prepare_us,omitempty"`
	UnprepareUs []float64 `json:"unprepare_us,omitempty"`
	// LastPrepareUs is from the first call's start to the last one's end when all start together.
	LastPrepareUs   float64 `json:"last_prepare_us,omitempty"`
	LastUnprepareUs float64 `json:"last_unprepare_us,omitempty"`
	ElapsedS        float64 `json:"elapsed_s"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<26)
	out := json.NewEncoder(os.Stdout)
	var p *plugin
	for lines.Scan() {
		var c command
		err := json.Unmarshal(lines.Bytes(), &c)
		var result any
		if err == nil {
			result, err = run(&p, c)
		}
		if err != nil {
			result = map[string]string{"error": err.Error()}
		}
		if err := out.Encode(result); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func run(p **plugin, c command) (any, error) {
	if c.Op == "register" {
		registered, r, err := register(c.Registry, c.Plugins, c.Driver, time.Duration(c.TimeoutS*float64(time.Second)))
		*p = registered
		return r, err
	}
	if *p == nil {
		return nil, errors.New("no plugin is registered")
	}
	start := time.Now()
	t, err := load(*p, c)
	t.ElapsedS = time.Since(start).Seconds()
	return t, err
}

func load(p *plugin, c command) (timings, error) {
	switch c.Op {
	case "prepare":
		us, err := sequence(c.Claims, p.prepare)
		return timings{PrepareUs: us}, err
	case "unprepare":
		us, err := sequence(c.Claims, p.unprepare)
		return timings{UnprepareUs: us}, err
	case "pairs":
		return pairs(p, c.Claims, time.Time{})
	case "burst":
		return burst(p, c.Claims)
	case "callers":
		return callers(p, c.Callers, time.Duration(c.Seconds*float64(time.Second)))
	}
	return timings{}, fmt.Errorf("unknown op %q", c.Op)
}

func timed(call func(...claim) error, c claim) (float64, error) {
	start := time.Now()
	err := call(c)
	return float64(time.Since(start).Nanoseconds()) / 1e3, err
}

// sequence makes one call a claim, one after the other.
func sequence(claims []claim, call func(...claim) error) ([]float64, error) {
	us := make([]float64, 0, len(claims))
	for _, c := range claims {
		took, err := timed(call, c)
		if err != nil {
			return us, err
		}
		us = append(us, took)
	}
	return us, nil
}

// pairs prepares and unprepares each claim in turn, once or, when there is an end, round and round until then.
func pairs(p *plugin, claims []claim, end time.Time) (timings, error) {
	var t timings
	for once := true; once || (!end.IsZero() && time.Now().Before(end)); once = false {
		for _, c := range claims {
			if !end.IsZero() && time.Now().After(end) {
				break
			}
			took, err := timed(p.prepare, c)
			if err != nil {
				return t, err
			}
			t.PrepareUs = append(t.PrepareUs, took)
			if took, err = timed(p.unprepare, c); err != nil {
				return t, err
			}
			t.UnprepareUs = append(t.UnprepareUs, took)
		}
	}
	return t, nil
}

// burst prepares all claims at once, one call each, then unprepares them in the same way.
func burst(p *plugin, claims []claim) (timings, error) {
	prepareUs, lastPrepare, err := together(claims, p.prepare)
	t := timings{PrepareUs: prepareUs, LastPrepareUs: lastPrepare}
	if err != nil {
		return t, err
	}
	t.UnprepareUs, t.LastUnprepareUs, err = together(claims, p.unprepare)
	return t, err
}

func together(claims []claim, call func(...claim) error) ([]float64, float64, error) {
	us := make([]float64, len(claims))
	errs := make([]error, len(claims))
	var group sync.WaitGroup
	start := time.Now()
	for i, c := range claims {
		group.Add(1)
		go func() {
			defer group.Done()
			us[i], errs[i] = timed(call, c)
		}()
	}
	group.Wait()
	return us, float64(time.Since(start).Nanoseconds()) / 1e3, errors.Join(errs...)
}

// callers runs pairs for every list of claims at the same time, each until the time is over.
func callers(p *plugin, lists [][]claim, length time.Duration) (timings, error) {
	results := make([]timings, len(lists))
	errs := make([]error, len(lists))
	var group sync.WaitGroup
	end := time.Now().Add(length)
	for i, claims := range lists {
		group.Add(1)
		go func() {
			defer group.Done()
			results[i], errs[i] = pairs(p, claims, end)
		}()
	}
	group.Wait()
	var all timings
	for _, r := range results {
		all.PrepareUs = append(all.PrepareUs, r.PrepareUs...)
		all.UnprepareUs = append(all.UnprepareUs, r.UnprepareUs...)
	}
	return all, errors.Join(errs...)
}
