"""The service: the jobs that keep a log small, who does them, and what is told of them."""
