package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// knockTimeout is the longest wait of a knock for an answer. The first retransmission of a
// connection request comes after a second (RFC 6298), so each knock is one packet.
const knockTimeout = 700 * time.Millisecond

// attempt is one knock and its result.
type attempt struct {
	From, To netip.AddrPort
	Through  bool
}

// knock reads attempts as JSON, makes them all at once, and writes them with their results.
func knock(ctx context.Context, in io.Reader, out io.Writer) error {
	var attempts []attempt
	if err := json.NewDecoder(in).Decode(&attempts); err != nil {
		return fmt.Errorf("read knocks: %w", err)
	}
	var wg sync.WaitGroup
	for i := range attempts {
		wg.Go(func() {
			a := &attempts[i]
			d := net.Dialer{Timeout: knockTimeout, LocalAddr: net.TCPAddrFromAddrPort(a.From)}
			if c, err := d.DialContext(ctx, "tcp", a.To.String()); err == nil {
				a.Through = true
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	return json.NewEncoder(out).Encode(attempts)
}

// serve accepts connections on TCP ports until ctx ends, and closes them.
func serve(ctx context.Context, ports []string) error {
	for _, port := range ports {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+port)
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
	}
	<-ctx.Done()
	return nil
}

// get prints the answer to a request for a URL.
func get(ctx context.Context, url string, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(out, io.LimitReader(res.Body, 1<<20))
	return err
}
