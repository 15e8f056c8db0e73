// A TCP proxy that holds every answer back for a while: `go run latency_proxy.go LISTEN TARGET MILLISECONDS`.
package main

import (
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

type chunk struct {
	due  time.Time
	data []byte
}

func delayed(from, to net.Conn, delay time.Duration) {
	chunks := make(chan chunk, 1024)
	go func() {
		defer close(chunks)
		for {
			buffer := make([]byte, 64*1024)
			n, err := from.Read(buffer)
			if n > 0 {
				chunks <- chunk{time.Now().Add(delay), buffer[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for c := range chunks {
		time.Sleep(time.Until(c.due))
		if _, err := to.Write(c.data); err != nil {
			break
		}
	}
	from.Close()
	to.Close()
}

func main() {
	milliseconds, _ := strconv.Atoi(os.Args[3])
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", os.Args[2])
		if err != nil {
			client.Close()
			continue
		}
		go func() {
			io.Copy(server, client)
			server.Close()
		}()
		go delayed(server, client, time.Duration(milliseconds)*time.Millisecond)
	}
}
