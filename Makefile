# Every word here is a command of dev.py, which does the work: python3 dev.py help
# More words go through ARGS: make unit ARGS='-k codec'
# FILES names the modules for mutate: make mutate FILES='kumiai.identity.check*'

PYTHON ?= python3
COMMANDS = setup demo test check format lint types unit integration system chaos soak mutate \
	bench docs proto torch clean

.PHONY: help $(COMMANDS)

help:
	@$(PYTHON) dev.py help

$(COMMANDS):
	@set -f; $(PYTHON) dev.py $@ $(FILES) $(ARGS)
