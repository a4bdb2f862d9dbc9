"""The same function as `videopoet sample class-frame-prediction`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("class-frame-prediction")
