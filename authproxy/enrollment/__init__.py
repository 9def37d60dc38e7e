"""Machines that enroll: a token in, a short-lived credential and what renews it out."""
