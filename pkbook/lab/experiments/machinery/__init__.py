"""What experiments share: settings, training, results, the paper's claims, the command line."""
