"""The web service's health check: exit 0 if the address answers 200."""
import sys
import urllib.request

with urllib.request.urlopen(sys.argv[1], timeout=15) as answer:
    sys.exit(0 if answer.status == 200 else 1)
