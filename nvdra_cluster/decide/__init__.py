"""What should be, given what is: pure functions from views to wishes and writes. Called by ``control`` alone."""
