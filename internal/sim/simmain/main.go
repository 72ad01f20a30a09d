// Command simmain plays simulated histories for as long as one likes and stops at the first that
// breaks a promise, with its seed.
//
//	go run ./internal/sim/simmain -for 10m
//	go run ./internal/sim/simmain -seed 17 -trace
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hathi-ha/hathi/internal/sim"
)

func main() {
	seed := flag.Uint64("seed", 0, "play this one history")
	trace := flag.Bool("trace", false, "print the history's lines")
	from := flag.Uint64("from", 1, "the first seed")
	count := flag.Uint64("count", 0, "how many histories; 0: no limit")
	length := flag.Duration("for", time.Minute, "how long to go on; 0: no limit")
	workers := flag.Int("workers", runtime.NumCPU(), "histories at the same time")
	keep := flag.Bool("keep-going", false, "do not stop at the first violation")
	mutation := flag.String("mutation", "", "switch this safety rule off")
	profile := flag.String("cpuprofile", "", "write a profile of the processors to this file")
	flag.Parse()
	debug.SetGCPercent(400) // a history needs little memory and makes much garbage
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			fmt.Fprintln(os.Stderr, "simmain:", err)
			os.Exit(1)
		}
		_ = pprof.StartCPUProfile(f)
		defer f.Close()
		defer pprof.StopCPUProfile()
	}

	var m *sim.Mutation
	for _, x := range sim.Mutations() {
		if x.Name == *mutation {
			m = &x
		}
	}
	if m == nil && *mutation != "" {
		fmt.Fprintf(os.Stderr, "simmain: there is no mutation %q; these are:\n", *mutation)
		for _, x := range sim.Mutations() {
			fmt.Fprintf(os.Stderr, "  %-24s %s\n", x.Name, x.Text)
		}
		os.Exit(2)
	}
	if *seed != 0 {
		r := sim.Run(*seed, sim.Options{Trace: *trace, Mutation: m})
		for _, l := range r.Trace {
			fmt.Println(l)
		}
		fmt.Println(r)
		if len(r.Violations) > 0 {
			os.Exit(1)
		}
		return
	}

	begin := time.Now()
	var next, done, bad, faults, events, acks, epochs, unfenced, lost atomic.Uint64
	var simulated atomic.Int64
	next.Store(*from)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var print sync.Mutex
	for range *workers {
		wg.Go(func() {
			for !stop.Load() && (*length == 0 || time.Since(begin) < *length) {
				n := next.Add(1) - 1
				if *count > 0 && n >= *from+*count {
					return
				}
				r := sim.Run(n, sim.Options{Mutation: m})
				done.Add(1)
				simulated.Add(int64(r.Simulated))
				events.Add(uint64(r.Events))
				faults.Add(uint64(len(r.Faults)))
				acks.Add(uint64(r.Acknowledged))
				epochs.Add(r.Epochs)
				unfenced.Add(uint64(r.Unfenced))
				lost.Add(uint64(r.Lost))
				if len(r.Violations) > 0 {
					bad.Add(1)
					print.Lock()
					fmt.Println(r)
					print.Unlock()
					if !*keep {
						stop.Store(true)
					}
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	n, secs, virtual := float64(max(done.Load(), 1)), took.Seconds(), time.Duration(simulated.Load())
	fmt.Printf("%d histories in %s: %.0f a second, %.0f simulated seconds per second\n", done.Load(), took.Round(time.Millisecond), n/secs, virtual.Seconds()/secs)
	fmt.Printf("a history on average: %.0f s simulated, %.1f faults, %.1f leaderships, %.0f acknowledged commits, %.0f events\n",
		virtual.Seconds()/n, float64(faults.Load())/n, float64(epochs.Load())/n, float64(acks.Load())/n, float64(events.Load())/n)
	fmt.Printf("%s simulated in all; %d commits lost in asynchronous mode within its bound, %d acknowledged by unfenced primaries past the router\n",
		virtual.Round(time.Second), lost.Load(), unfenced.Load())
	fmt.Printf("%d histories broke a promise\n", bad.Load())
	if bad.Load() > 0 {
		os.Exit(1)
	}
}
