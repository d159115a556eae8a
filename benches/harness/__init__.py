"""What benches/end_to_end.py is made of.

* lab: where programs, models and pictures are; starts NATS and storage.
* process: a child process, and what the kernel says it used.
* queue: jobs in, results out, as any client of the wire contract does it.
* contender: what is measured, with the settings it is measured with.
* race: contenders take turns; from the first result to the last.
* scenarios: what is measured, and the goals.
* report: benches/RESULTS.md.
"""
