#!/bin/sh
psql -c 'CREATE DATABASE examples' || true
