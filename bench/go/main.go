// Go's net/rpc, for comparison: the same roles and arguments as the program in ../src.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type benchCase struct {
	Transport         string `json:"transport"`
	Workload    string `json:"workload"`
	WarmMs      int64  `json:"warm_ms"`
	SampleMs    int64  `json:"sample_ms"`
	Address     string `json:"address"`
	ServerPid   int    `json:"server_pid"`
	BodyLen     int    `json:"body_len"`
	Outstanding int    `json:"outstanding"`
	Connections int    `json:"connections"`
	WaitMs      int64  `json:"wait_ms"`
}

type figures struct {
	Calls           int64 `json:"calls"`
	WallNs          int64 `json:"wall_ns"`
	ClientCpuNs     int64 `json:"client_cpu_ns"`
	ServerCpuNs     int64 `json:"server_cpu_ns"`
	P50Ns           int64 `json:"p50_ns"`
	P99Ns           int64 `json:"p99_ns"`
	P999Ns          int64 `json:"p999_ns"`
	ConnectionBytes int64 `json:"connection_bytes"`
}

// Bench is what the server offers.
type Bench struct{ wait time.Duration }

// Echo returns its argument.
func (b *Bench) Echo(body []byte, reply *[]byte) error {
	if b.wait > 0 {
		time.Sleep(b.wait)
	}
	*reply = body
	return nil
}

func main() {
	var c benchCase
	if len(os.Args) != 3 {
		fail(errors.New("a role and a case"))
	}
	check(json.Unmarshal([]byte(os.Args[2]), &c))
	if os.Args[1] == "serve" {
		serve(&c)
	} else {
		drive(&c)
	}
}

func serve(c *benchCase) {
	check(rpc.Register(&Bench{time.Duration(c.WaitMs) * time.Millisecond}))
	listener, err := net.Listen(network(c), c.Address)
	check(err)
	fmt.Println("ready", listener.Addr())
	go func() {
		// Ends with the parent.
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		conn, err := listener.Accept()
		check(err)
		cubic(conn)
		go rpc.ServeConn(conn)
	}
}

func network(c *benchCase) string {
	return c.Transport // Go has the same names for them.
}

const tcpCongestion = 13

// cubic sets the congestion control; Go sets TCP_NODELAY by itself.
func cubic(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	check(err)
	check(raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptString(int(fd), syscall.IPPROTO_TCP, tcpCongestion, "cubic")
	}))
}

func dial(c *benchCase) *rpc.Client {
	conn, err := net.Dial(network(c), c.Address)
	check(err)
	cubic(conn)
	return rpc.NewClient(conn)
}

func call(client *rpc.Client, body []byte) {
	var reply []byte
	check(client.Call("Bench.Echo", body, &reply))
	if len(reply) != len(body) {
		fail(errors.New("not all came back"))
	}
}

func drive(c *benchCase) {
	body := make([]byte, c.BodyLen)
	var f figures
	switch c.Workload {
	case "W6":
		f = memory(c, body)
	case "W5":
		f = measure(c, 1, func(int) func() {
			return func() {
				client := dial(c)
				call(client, body)
				check(client.Close())
			}
		})
	default:
		clients := make([]*rpc.Client, c.Connections)
		for i := range clients {
			clients[i] = dial(c)
		}
		f = measure(c, c.Connections*c.Outstanding, func(i int) func() {
			client := clients[i/c.Outstanding]
			return func() { call(client, body) }
		})
	}
	check(json.NewEncoder(os.Stdout).Encode(f))
}

// measure runs so many goroutines for the warm-up and the sample.
func measure(c *benchCase, routines int, work func(int) func()) figures {
	var calls atomic.Int64
	var sampling, over atomic.Bool
	var latencies []int64
	var all sync.WaitGroup
	for i := 0; i < routines; i++ {
		step := work(i)
		all.Add(1)
		go func() {
			defer all.Done()
			for !over.Load() {
				begun := time.Now()
				step()
				calls.Add(1)
				if c.Workload == "W1" && sampling.Load() {
					latencies = append(latencies, time.Since(begun).Nanoseconds())
				}
			}
		}()
	}
	time.Sleep(time.Duration(c.WarmMs) * time.Millisecond)
	sampling.Store(true)
	from, clientFrom, serverFrom, begun := calls.Load(), cpu(os.Getpid()), cpu(c.ServerPid), time.Now()
	time.Sleep(time.Duration(c.SampleMs) * time.Millisecond)
	f := figures{
		Calls:       calls.Load() - from,
		ClientCpuNs: cpu(os.Getpid()) - clientFrom,
		ServerCpuNs: cpu(c.ServerPid) - serverFrom,
		WallNs:      time.Since(begun).Nanoseconds(),
	}
	over.Store(true)
	all.Wait()
	if len(latencies) > 0 {
		sort.Slice(latencies, func(i, j int) bool { return latencies[i] < latencies[j] })
		at := func(q float64) int64 { return latencies[int(float64(len(latencies))*q)] }
		f.P50Ns, f.P99Ns, f.P999Ns = at(0.5), at(0.99), at(0.999)
	}
	return f
}

// cpu is the processor time of a process's threads, in nanoseconds.
func cpu(pid int) int64 {
	var sum int64
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		ns, _ := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		sum += ns
	}
	return sum
}

func resident(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	check(err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	check(err)
	return pages * int64(os.Getpagesize())
}

func memory(c *benchCase, body []byte) figures {
	call(dial(c), body)
	before := resident(c.ServerPid)
	clients := make([]*rpc.Client, c.Connections)
	for i := range clients {
		clients[i] = dial(c)
		call(clients[i], body)
	}
	time.Sleep(400 * time.Millisecond)
	n := int64(len(clients))
	return figures{Calls: n, ConnectionBytes: (resident(c.ServerPid) - before) / n}
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "net/rpc:", err)
	os.Exit(1)
}
