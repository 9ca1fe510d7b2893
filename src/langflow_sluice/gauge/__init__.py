"""What the Pressure Gauge node reads: all workers, the database, and what to make of both."""
