# Read by the shells of the notebooks: Jupyter forces colours and progress bars, pages want neither.
unset FORCE_COLOR CLICOLOR CLICOLOR_FORCE
