"""The same function as `videopoet sample denoise-audio`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("denoise-audio")
