"""The paper's claim, put to the test: do restorers generalise better with generated pairs beside existing ones?"""
