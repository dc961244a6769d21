"""The other loaders: each is a program of its own, ``python -m benches.contestants.<name> DSN ROWS JOBS LIMIT``.

Each makes table bench.powers, fills it from ROWS/powers.ndjson (at most LIMIT rows; 0 is all), makes its keys, indexes
and statistics, and ends. Each is written as its own documentation advises, with what helps it most.
"""
