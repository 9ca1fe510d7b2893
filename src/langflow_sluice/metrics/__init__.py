"""What every process of a deployment tells about its guards and pools, and who reads it."""
