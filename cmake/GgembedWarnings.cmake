# ggembed_warnings(<target>): the warnings our own code keeps. Assertions stay on unless the build type is Release.
function(ggembed_warnings target)
  set(gnu -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wcast-qual -Wundef -Wvla
      $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor> $<$<COMPILE_LANGUAGE:CXX>:-Woverloaded-virtual>
      $<$<COMPILE_LANGUAGE:CXX>:-Wold-style-cast> $<$<COMPILE_LANGUAGE:CXX>:-Wextra-semi>
      $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>)
  if(GGEMBED_WERROR)
    list(APPEND gnu -Werror)
  endif()
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 /utf-8 $<$<BOOL:${GGEMBED_WERROR}>:/WX>)
  else()
    target_compile_options(${target} PRIVATE ${gnu} $<$<CONFIG:RelWithDebInfo>:-UNDEBUG>)
    target_compile_definitions(${target} PRIVATE $<$<CONFIG:Debug,RelWithDebInfo>:_GLIBCXX_ASSERTIONS>)
  endif()
endfunction()
