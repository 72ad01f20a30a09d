package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"sync"
)

// record is one line of the file of results. A run appends as it goes, so that one that was killed can
// still be reported, and several can be reported together.
type record struct {
	Run    *runInfo `json:"run,omitempty"`
	Round  *round   `json:"round,omitempty"`
	Line   *line    `json:"line,omitempty"`
	Sample *sample  `json:"sample,omitempty"`
}

// runInfo is what the records that follow it were measured with.
type runInfo struct {
	Began   string   `json:"began"`
	Build   string   `json:"build"`
	Machine string   `json:"machine"`
	Args    []string `json:"args"`
}

// sample is one of many measurements that only mean something together.
type sample struct {
	What   string             `json:"what"`
	System string             `json:"system"`
	Values map[string]float64 `json:"values"`
}

// results are what one or more runs found.
type results struct {
	runs    []runInfo
	rounds  []round
	lines   []line
	samples []sample
}

func (r *results) add(rec record) {
	switch {
	case rec.Run != nil:
		r.runs = append(r.runs, *rec.Run)
	case rec.Round != nil:
		r.rounds = append(r.rounds, *rec.Round)
	case rec.Line != nil:
		r.lines = append(r.lines, *rec.Line)
	case rec.Sample != nil:
		r.samples = append(r.samples, *rec.Sample)
	}
}

// recordsFile keeps records.
type recordsFile struct {
	mu sync.Mutex
	f  *os.File
}

func openRecords(path string) (*recordsFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("keep the results: %w", err)
	}
	// The run before may have been killed within a line.
	if st, err := f.Stat(); err == nil && st.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, st.Size()-1); err == nil && last[0] != '\n' {
			_, _ = f.Write([]byte("\n"))
		}
	}
	return &recordsFile{f: f}, nil
}

func (f *recordsFile) write(rec record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err = f.f.Write(append(b, '\n'))
	return err
}

// parseRecords reads what runs wrote. A line that was cut off, by the death of its writer, is skipped
// and counted.
func parseRecords(text []byte) (recs []record, broken int) {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		var rec record
		if err := json.Unmarshal(line, &rec); err != nil {
			broken++
			continue
		}
		recs = append(recs, rec)
	}
	return recs, broken
}

// readResults puts files together.
func readResults(paths []string) (results, error) {
	var out results
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			return out, fmt.Errorf("read results: %w", err)
		}
		recs, broken := parseRecords(text)
		if broken > 0 {
			fmt.Fprintf(os.Stderr, "bench: %s: %d lines that were cut off are left out\n", p, broken)
		}
		for _, rec := range recs {
			out.add(rec)
		}
	}
	return out, nil
}
