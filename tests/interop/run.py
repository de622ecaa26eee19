"""Runs all interop tests: `python3 tests/interop/run.py [part of a test's name ...]`."""

import bdat_pipelining
import clients
import configuration
import disk
import encryption
import delivery_status
import descriptors
import golang
import hostile
import libraries
import disk_faults
import exim_opensmtpd
import dns_fairness
import failure_scopes
import dns_routing
import node
import postfix
import inbound_esmtp
import require_tls
import lifecycle
import outbound_extensions
import sites
import start_stress
import deliverby
import tokens
import tools
import users
import client_certificates
import sharding
from harness import main

SUITES = (
    clients, configuration, delivery_status, dns_routing, dns_fairness, lifecycle, start_stress, sharding, sites, hostile, descriptors, disk_faults, disk, tools, encryption, inbound_esmtp,
    outbound_extensions, bdat_pipelining, deliverby, postfix, exim_opensmtpd, users, tokens, client_certificates, failure_scopes, libraries, node, golang, require_tls,
)

if __name__ == "__main__":
    raise SystemExit(main([test for suite in SUITES for test in suite.TESTS]))
