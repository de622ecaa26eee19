// Go's net/smtp and github.com/emersion/go-smtp (0.12, as Debian 12 has it) at a relay's two ends.
//
// `client` and `server` read on standard input, in JSON, what to do, and print in JSON what came of
// it: one line for each message.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func say(what interface{}) {
	line, err := json.Marshal(what)
	if err != nil {
		fail(err)
	}
	fmt.Println(string(line))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "client" {
		client()
	} else if len(os.Args) == 2 && os.Args[1] == "server" {
		server()
	} else {
		fail(fmt.Errorf("say client or server"))
	}
}
