"""Figures for operators, from Postgres and this host's spool, in Prometheus' text format."""
