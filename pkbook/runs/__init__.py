"""A training run as data: optimizer steps as coefficients, recorded, kept, made again."""
