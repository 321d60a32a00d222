# Turns the plain comments of the headers into Doxygen's: the one that opens a file describes the
# file, one above a declaration or behind it describes that declaration.
1s|^// ?(.*)|/// @file\n/// \1|
/^ *\/\/ -{4,}/d
s|^( *)//( .*)?$|\1///\2|
s|([;,{}]) +// (.*)$|\1  ///< \2|
