package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"io"
	"io/ioutil"
	"net"
	"os"

	"github.com/emersion/go-smtp"
)

type reply struct {
	Code     int
	Enhanced smtp.EnhancedCode
	Text     string
}

func (said reply) err() error {
	return &smtp.SMTPError{Code: said.Code, EnhancedCode: said.Enhanced, Message: said.Text}
}

type settings struct {
	// Certificate and key.
	Pair     []string
	Implicit bool
	Lmtp     bool
	// Name and password; who does not know them may not send.
	Login         []string
	Size          int
	RecipientsMax int `json:"recipients_max"`
	Utf8          bool
	RequireTls    bool `json:"require_tls"`
	// Replies to RCPT, and to the final dot for each recipient (LMTP).
	Refused  map[string]reply
	AtTheEnd map[string]reply `json:"at_the_end"`
}

type taken struct {
	From       string   `json:"from"`
	To         []string `json:"to"`
	User       string   `json:"user"`
	Tls        bool     `json:"tls"`
	Size       int      `json:"size"`
	Utf8       bool     `json:"utf8"`
	RequireTls bool     `json:"require_tls"`
	// Its reader gives LF for each CRLF.
	Content []byte `json:"content"`
}

type backend struct{ settings settings }

func (b backend) Login(state *smtp.ConnectionState, name, password string) (smtp.Session, error) {
	if len(b.settings.Login) != 2 || name != b.settings.Login[0] || password != b.settings.Login[1] {
		return nil, reply{535, smtp.EnhancedCode{5, 7, 8}, "not known"}.err()
	}
	return b.session(state, name), nil
}

func (b backend) AnonymousLogin(state *smtp.ConnectionState) (smtp.Session, error) {
	if len(b.settings.Login) == 2 {
		return nil, smtp.ErrAuthRequired
	}
	return b.session(state, ""), nil
}

func (b backend) session(state *smtp.ConnectionState, user string) smtp.Session {
	one := session{settings: b.settings, message: taken{User: user, Tls: state.TLS.HandshakeComplete}}
	if b.settings.Lmtp {
		return &mailboxes{one}
	}
	return &one
}

type session struct {
	settings settings
	message  taken
}

func (s *session) Reset() {
	s.message = taken{User: s.message.User, Tls: s.message.Tls}
}

func (s *session) Logout() error { return nil }

func (s *session) Mail(from string, options smtp.MailOptions) error {
	s.message.From, s.message.Size = from, options.Size
	s.message.Utf8, s.message.RequireTls = options.UTF8, options.RequireTLS
	return nil
}

func (s *session) Rcpt(to string) error {
	if said, there := s.settings.Refused[to]; there {
		return said.err()
	}
	s.message.To = append(s.message.To, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	content, err := ioutil.ReadAll(r)
	if err != nil {
		return err
	}
	s.message.Content = content
	say(s.message)
	return nil
}

type mailboxes struct{ session }

func (m *mailboxes) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	if err := m.Data(r); err != nil {
		return err
	}
	for _, to := range m.message.To {
		if said, there := m.settings.AtTheEnd[to]; there {
			status.SetStatus(to, said.err())
		} else {
			status.SetStatus(to, nil)
		}
	}
	return nil
}

func server() {
	lines := bufio.NewReader(os.Stdin)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		fail(err)
	}
	var how settings
	if err = json.Unmarshal(line, &how); err != nil {
		fail(err)
	}
	host := smtp.NewServer(backend{how})
	host.Domain = "go.test"
	host.LMTP = how.Lmtp
	host.MaxMessageBytes = how.Size
	host.MaxRecipients = how.RecipientsMax
	host.EnableSMTPUTF8 = how.Utf8
	host.EnableREQUIRETLS = how.RequireTls
	host.AuthDisabled = len(how.Login) == 0
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	say(map[string]int{"port": listener.Addr().(*net.TCPAddr).Port})
	if len(how.Pair) == 2 {
		certificate, err := tls.LoadX509KeyPair(how.Pair[0], how.Pair[1])
		if err != nil {
			fail(err)
		}
		host.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	if how.Implicit {
		listener = tls.NewListener(listener, host.TLSConfig)
	}
	go func() {
		if err := host.Serve(listener); err != nil {
			fail(err)
		}
	}()
	// The test is over when there is no more input.
	lines.ReadBytes('\n')
}
