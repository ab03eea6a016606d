"""Workloads with a file of their own."""
