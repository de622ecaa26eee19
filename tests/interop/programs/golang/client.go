package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io/ioutil"
	"net"
	standard "net/smtp"
	"os"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

type message struct {
	From       string
	To         []string
	Content    []byte
	Utf8       bool
	RequireTls bool `json:"require_tls"`
	Size       int
}

type job struct {
	// "net/smtp": its SendMail. "go-smtp": its SendMail. "go-smtp client": each command.
	Library string
	Address string
	// Of "go-smtp client": "", "starttls" or "implicit".
	Tls        string
	ServerName string `json:"server_name"`
	Root       string
	// "", "PLAIN" or "LOGIN".
	Mechanism string
	User      string
	Password  string
	Messages  []message
}

type result struct {
	Error      string
	Code       int
	Enhanced   []int
	Extensions []string
}

func client() {
	var todo job
	if err := json.NewDecoder(os.Stdin).Decode(&todo); err != nil {
		fail(err)
	}
	if todo.Library != "go-smtp client" {
		for _, one := range todo.Messages {
			say(told(todo.sendMail(one)))
		}
		return
	}
	connection, err := todo.open()
	if err != nil {
		say(told(err))
		return
	}
	for _, one := range todo.Messages {
		came := told(command(connection, one))
		for _, name := range []string{"SIZE", "8BITMIME", "SMTPUTF8", "REQUIRETLS", "STARTTLS", "AUTH"} {
			if there, _ := connection.Extension(name); there {
				came.Extensions = append(came.Extensions, name)
			}
		}
		if came.Error != "" {
			connection.Reset()
		}
		say(came)
	}
	if err := connection.Quit(); err != nil {
		fail(err)
	}
}

func told(err error) result {
	if err == nil {
		return result{}
	}
	came := result{Error: err.Error()}
	if reply, ok := err.(*smtp.SMTPError); ok {
		came.Code, came.Enhanced = reply.Code, reply.EnhancedCode[:]
	}
	return came
}

func (todo job) mechanism() sasl.Client {
	switch todo.Mechanism {
	case "PLAIN":
		return sasl.NewPlainClient("", todo.User, todo.Password)
	case "LOGIN":
		return sasl.NewLoginClient(todo.User, todo.Password)
	}
	return nil
}

// With STARTTLS where it is offered; the root is in SSL_CERT_FILE.
func (todo job) sendMail(one message) error {
	if todo.Library == "go-smtp" {
		content := bytes.NewReader(one.Content)
		return smtp.SendMail(todo.Address, todo.mechanism(), one.From, one.To, content)
	}
	var auth standard.Auth
	if todo.Mechanism != "" {
		host, _, _ := net.SplitHostPort(todo.Address)
		auth = standard.PlainAuth("", todo.User, todo.Password, host)
	}
	return standard.SendMail(todo.Address, auth, one.From, one.To, one.Content)
}

func (todo job) open() (*smtp.Client, error) {
	config := &tls.Config{ServerName: todo.ServerName}
	if todo.Root != "" {
		pem, err := ioutil.ReadFile(todo.Root)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(pem)
	}
	var connection *smtp.Client
	var err error
	if todo.Tls == "implicit" {
		connection, err = smtp.DialTLS(todo.Address, config)
	} else {
		connection, err = smtp.Dial(todo.Address)
	}
	if err != nil {
		return nil, err
	}
	if err = connection.Hello("client.test"); err != nil {
		return nil, err
	}
	if todo.Tls == "starttls" {
		if err = connection.StartTLS(config); err != nil {
			return nil, err
		}
	}
	if mechanism := todo.mechanism(); mechanism != nil {
		err = connection.Auth(mechanism)
	}
	return connection, err
}

func command(connection *smtp.Client, one message) error {
	options := &smtp.MailOptions{Size: one.Size, UTF8: one.Utf8, RequireTLS: one.RequireTls}
	if err := connection.Mail(one.From, options); err != nil {
		return err
	}
	for _, to := range one.To {
		if err := connection.Rcpt(to); err != nil {
			return err
		}
	}
	writer, err := connection.Data()
	if err != nil {
		return err
	}
	if _, err = writer.Write(one.Content); err != nil {
		return err
	}
	return writer.Close()
}
