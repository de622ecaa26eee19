"""Reads a report from standard input with parsers that this project did not write.

Prints one line per finding. `flufl` lines are missing when flufl.bounce is not installed.
"""

import sys
from email import message_from_bytes, policy
from email.utils import parsedate_to_datetime

raw = sys.stdin.buffer.read()
message = message_from_bytes(raw, policy=policy.default)
print("type", message.get_content_type(), message.get_param("report-type"))
print("date", parsedate_to_datetime(message["Date"]).isoformat())
print("to", message["To"].addresses[0].addr_spec)
print("auto", message["Auto-Submitted"])
defects = [type(d).__name__ for part in message.walk() for d in part.defects]
print("defects", *defects)
text, status, header = message.iter_parts()
print("parts", text.get_content_type(), status.get_content_type(), header.get_content_type())
for address in text.get_content().splitlines():
    if address.startswith("<"):
        print("told", ascii(address))
for block in status.get_payload()[1:]:
    print("status", block["Final-Recipient"], block["Action"], block["Status"])
returned = header.get_payload(decode=True)
print("returned", returned.splitlines()[-1])

try:
    from flufl.bounce import all_failures
except ImportError:
    sys.exit(0)
temporary, permanent = all_failures(message_from_bytes(raw))
print("flufl", len(temporary), *sorted(address.decode() for address in permanent))
