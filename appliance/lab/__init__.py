"""Evaluation hosts on this machine: real systemd hosts to deploy to, made and removed by one command."""
