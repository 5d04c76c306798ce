"""Run the stages as Ray jobs or plain processes: one file per entry point, named by its stage.

In come a configuration file and options. Out goes whatever the stage does, and one JSON object as the last line of the output.
"""
