#!/bin/bash
exec /usr/bin/run-server.sh
