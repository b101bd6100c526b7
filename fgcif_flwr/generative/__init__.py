"""Generators of rows: fitted to one enterprise's rows, or to noisy sums over all enterprises'."""
