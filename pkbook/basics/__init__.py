"""What every room needs and none owns: checks, parameters by name, files, processes, memory."""
