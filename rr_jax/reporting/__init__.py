"""What a finished run is shown as: one self-contained page, and figures. Reads files of runs, computes nothing."""
