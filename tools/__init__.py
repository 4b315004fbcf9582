"""What maintainers run: training, validation, benchmarks, the gallery, the lock. Not in the wheel."""
