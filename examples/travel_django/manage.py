"""Django's commands for this project, and among them ``standfast``."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "examples.travel_django.settings"
    execute_from_command_line(sys.argv)
