"""What every run needs, whatever it computes: processes, signals, files, precision, random numbers, progress bars."""
